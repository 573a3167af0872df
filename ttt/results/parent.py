"""The run whose weights another run starts from."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ttt.config.errors import bad_value
from ttt.config.identity import differences
from ttt.config.schema import ParentConfig, Resolved, TrainConfig
from ttt.results.checkpoints import Checkpoint, newest_whole
from ttt.results.record import Record, RunFolder, read_record
from ttt.results.variants import settings_of

SHAPE = ("width", "blocks", "heads", "mlp_hidden")
"""Keys of a size that decide what weights there are; the others are for training."""


def adopt_parent(config: TrainConfig) -> None:
    """Fills in what ``config`` takes from the parent that it names, if it names one: digests, and the steps.

    Raises:
        UserError: the recipe needs a parent and there is none, it has no weights, or those of another model.
    """
    recipe = config.recipe
    if config.parent.run is None:
        if recipe.parent_share:
            raise bad_value("recipe", recipe.name, "starts from the weights of another run; name it with from=FOLDER")
        return
    record, checkpoint = find_parent(config.parent.run)
    different = differences(_shape(asdict(config)), _shape(record["config"]))
    if different:
        raise bad_value("from", config.parent.run, f"holds another model than was asked for: {'; '.join(different)}")
    settings = json.dumps(settings_of(record), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    config.parent = ParentConfig(config.parent.run, record["run_id"], checkpoint.sha256, digest)
    if recipe.parent_share and not recipe.steps:
        tokens = recipe.parent_share * checkpoint.step * record["tokens_per_step"]
        recipe.steps = max(1, round(tokens / max(1, recipe.tokens_per_step)))


def find_parent(run: str) -> tuple[Record, Checkpoint]:
    """The record of the run in this folder, and its newest checkpoint that is whole.

    Raises:
        UserError: no run, or none with a checkpoint that is whole.
    """
    folder = RunFolder(Path(run))
    record = read_record(folder.record)
    checkpoint = newest_whole(folder.checkpoints)
    if checkpoint is None:
        raise bad_value("from", run, "has no checkpoint to start from; train it further with ckpt=last")
    return record, checkpoint


def _shape(plain: Resolved) -> Resolved:
    """What parent and child must share. RoPE's base may change: a longer context is its reason."""
    return {
        "model": {key: value for key, value in plain["model"].items() if key != "rope_base"},
        "size": {key: plain["size"][key] for key in SHAPE},
        "backbone": plain["backbone"],
    }
