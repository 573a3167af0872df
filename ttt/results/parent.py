"""The run whose weights another run starts from."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ttt.config.errors import bad_value
from ttt.config.identity import differences, identity, run_id
from ttt.config.plan import plan_steps
from ttt.config.schema import ParentConfig, Resolved, TrainConfig
from ttt.results.checkpoints import Checkpoint, newest_whole
from ttt.results.record import Record, RunFolder, read_record

SHAPE = ("width", "blocks", "heads", "mlp_hidden")
"""Keys of a size that decide what weights there are; the others are for training."""


def adopt_parent(config: TrainConfig) -> None:
    """Fills in what ``config`` takes from the parent that it names, if it names one: what it is, and the steps.

    A configuration that was planned says already what it starts from, and is held to it.

    Raises:
        UserError: the recipe needs a parent and there is none, it has no weights, those of another model, or is not the
            one that was planned.
    """
    recipe, planned = config.recipe, config.parent
    if planned.run is None:
        if recipe.parent_share:
            raise bad_value("recipe", recipe.name, "starts from the weights of another run; name it with from=FOLDER")
        return
    record, checkpoint = find_parent(planned.run)
    if planned.run_id not in (None, record["run_id"]):
        raise bad_value("from", planned.run, f"holds {record['run_id']}, not {planned.run_id} as planned; plan again")
    if planned.steps not in (None, checkpoint.step):
        done = f"has done {checkpoint.step} steps, not {planned.steps} as planned"
        raise bad_value("from", planned.run, f"{done}; train it to there, or plan again")
    _adopt(config, record["config"], record["run_id"], checkpoint.step, record["tokens_per_step"])
    config.parent.weights = checkpoint.sha256


def plan_parent(config: TrainConfig, parent: TrainConfig, folder: Path) -> None:
    """Fills in what ``config`` takes from a ``parent`` that is still to be trained in ``folder``.

    ``run_id`` and steps are those that ``adopt_parent`` gives once it has been.

    Raises:
        UserError: the parent is another model.
    """
    config.parent = ParentConfig(str(folder))
    plan = plan_steps(parent)
    _adopt(config, asdict(parent), run_id(parent), plan.steps, plan.tokens_per_step)


def _adopt(config: TrainConfig, parent: Resolved, parent_id: str, steps: int, tokens_per_step: int) -> None:
    run, recipe = config.parent.run, config.recipe
    different = differences(_shape(asdict(config)), _shape(parent))
    if different:
        raise bad_value("from", run, f"holds another model than was asked for: {'; '.join(different)}")
    config.parent = ParentConfig(run, parent_id, steps, _settings(parent))
    if recipe.parent_share and not recipe.steps:
        tokens = recipe.parent_share * steps * tokens_per_step
        recipe.steps = max(1, round(tokens / max(1, recipe.tokens_per_step)))


def _settings(parent: Resolved) -> str:
    """Equal for runs that differ in nothing but the seed, their parents' included."""
    settings = identity(parent)
    del settings["seed"]
    if "parent" in settings:
        settings["parent"] = {**settings["parent"], "run_id": None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


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
