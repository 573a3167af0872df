"""``ttt-import``: make a run's folder from released weights."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.cli.command import Command
from ttt.cli.compose import as_object, compose
from ttt.cli.errors import stop
from ttt.cli.export import refuse_other_files
from ttt.cli.label import label_of, standard
from ttt.config.assets import assets
from ttt.config.errors import bad_value, counted
from ttt.config.exchange import ImportConfig
from ttt.config.identity import SHAPE, context_name, identity, run_id
from ttt.config.keys import check_keys
from ttt.config.plain import to_plain
from ttt.config.plan import plan_steps
from ttt.config.schema import DataConfig, TrainConfig
from ttt.config.system import file_sha256, user_path
from ttt.data.local import check_paths

if TYPE_CHECKING:
    from ttt.models.released_files import ReleasedWeights
    from ttt.models.released_meta import ReleasedSettings
    from ttt.train.planning import RunPlan

ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")

KEYS = {"ttt_base_lr": "eta_base", "rope_theta": "rope_base", "ctx": "ctx"}
"""Setting of the released code -> key."""

HELP = """\
ttt-import makes a run of the authors' released weights, for ttt-eval,
ttt-generate, ttt-export and figures.

usage: ttt-import from=FOLDER out=FOLDER [KEY=VALUE ...]

  ttt-import from=ttt-linear-125m out=runs/released tokenizer=tokenizer.model
  ttt-import from=OWNER/NAME out=runs/released tokenizer=tokenizer.model
                                    from the hub
  ttt-import from=ttt-linear-125m out=runs/released data=books
                                    judged on this text, as if it were its own

It reads their PyTorch layout (safetensors, torch) and their JAX checkpoints
(flax msgpack); nothing is unpickled.
"""


def import_weights(config: ImportConfig, overrides: list[str]) -> None:
    """Read the weights, write the run and print what was read.

    Raises:
        UserError: the weights cannot be read or are no model of the suite, there is no fitting tokenizer, the text
            cannot be used, or the folder cannot be written.
    """
    check_keys(config)
    out = Path(config.out)
    refuse_other_files(out, overwrite=None)
    if config.data is not None:
        if config.data.tokenizer is not None:
            raise bad_value("data.tokenizer", config.data.tokenizer, "must be left out: the model has its own")
        check_paths(config.data)
    path, commit = _found(config)
    from ttt.models.released import from_released
    from ttt.models.released_files import read_released
    from ttt.models.released_meta import settings_of
    from ttt.train.imported import write_imported

    tokenizer = _tokenizer(config, path)
    weights = read_released(path)
    ctx = config.ctx.length if config.ctx else None
    settings = settings_of(weights.state, path, config.eta_base, config.rope_base, ctx)
    model = from_released(weights.state, settings.meta, "dual")
    files = {file.name: file_sha256(file) for file in weights.files}
    plan = _plan(config, settings, files, out / tokenizer.name, overrides)
    steps, known_from = _steps(config, weights, plan.config)
    record = write_imported(
        plan,
        model,
        steps,
        tokenizer,
        config.data,
        {
            "source": config.source,
            "revision": commit,
            "layout": weights.layout,
            "files": files,
            "assumed": settings.assumed,
            "steps_from": known_from,
        },
    )
    for name, value in settings.assumed.items():
        taken = f"{KEYS[name]}={value:g} is assumed, as in the authors' scripts"
        print(f"warning: no config.json beside the weights gives {KEYS[name]}; {taken}", file=sys.stderr)
    tensors = f"{counted(len(weights.state), 'tensor')} of {counted(len(files), 'file')} ({weights.layout})"
    what = f"{record['parameters']['total']:,} parameters"
    print(f"{what} from {tensors}: {plan.config.model.name}, backbone={plan.config.backbone.name}")
    print(f"{out}: size={plan.config.size.name}, ctx={context_name(plan.config.ctx.length)}, {steps:,} steps")
    print(f'next: ttt-generate run={shlex.quote(str(out))} prompt="..." continues a text')


def _found(config: ImportConfig) -> tuple[Path, str | None]:
    """Return the file or folder of the weights, and the commit of a model on the hub, which is fetched."""
    path = user_path(config.source)
    if path.exists():
        return path, None
    if not ON_THE_HUB.fullmatch(config.source):
        raise bad_value("from", config.source, "no such file or folder; give one, or OWNER/NAME of a model on the hub")
    from ttt.data.hub_models import fetch_model

    return fetch_model(config.source, config.revision)


def _tokenizer(config: ImportConfig, path: Path) -> Path:
    from ttt.data.vocabulary import check_tokenizer, tokenizer_file

    if config.tokenizer is not None:
        given = user_path(config.tokenizer)
        check_tokenizer(given, "tokenizer")
        return given
    beside = tokenizer_file(path if path.is_dir() else path.parent)
    if not beside.is_file():
        where = "no tokenizer is beside the weights; give the model's tokenizer.model or tokenizer.json (Llama-2's for "
        raise bad_value("tokenizer", None, f"{where}the authors' models)")
    return beside


def _plan(
    config: ImportConfig, settings: ReleasedSettings, files: dict[str, str], tokenizer: Path, overrides: list[str]
) -> RunPlan:
    """Return the plan of a run that is already trained."""
    from ttt.results.record import RunFolder
    from ttt.train.imported import UNKNOWN, digest_of
    from ttt.train.planning import RunPlan

    meta = settings.meta
    composed = as_object(
        compose(
            "train",
            [
                f"model=ttt_{meta['layer']}",
                f"backbone={meta['backbone']}",
                "data=local",
                *_size(meta, settings.ctx),
                f"ctx.length={settings.ctx}",
                f"model.mini_batch_size={meta['mini_batch_size']}",
                f"model.conv_kernel={meta['conv_kernel']}",
                f"model.eta_base={meta['ttt_base_lr']}",
                f"model.rope_base={meta['rope_theta']}",
                "recipe.name=imported",
                f"recipe.imported='{digest_of(files)}'",
            ],
        ),
        TrainConfig,
    )
    data: DataConfig = config.data or replace(composed.data, name=UNKNOWN)
    data = replace(data, tokenizer=str(tokenizer), vocab_size=meta["vocab_size"])
    whole = replace(composed, data=data, run=config.out)
    label = label_of(whole).to_plain()
    written = [re.sub(r"^source=", "from=", override) for override in overrides]
    parts = plan_steps(whole), identity(whole), run_id(whole), RunFolder(Path(config.out))
    return RunPlan(whole, *parts, 0, None, to_plain(whole), written, None, label)


def _size(meta: dict[str, int], ctx: int) -> list[str]:
    """Return overrides for the size of this shape in ``conf/size/``, or for one of its own."""
    width = meta["num_heads"] * meta["head_dim"]
    numbers = width, meta["num_layers"], meta["num_heads"], meta["intermediate_size"]
    shape = dict(zip(SHAPE, numbers, strict=True))
    for path in sorted((assets() / "conf" / "size").glob("*.yaml")):
        known = standard("size", path.stem, ctx)
        if all(known.get(key) == value for key, value in shape.items()):
            return [f"size={path.stem}"]
    own = {**shape, "name": f"w{width}x{meta['num_layers']}", "tokens_per_step": ctx, "steps": 1}
    return [f"size.{key}={value}" for key, value in own.items()]


def _steps(config: ImportConfig, weights: ReleasedWeights, run: TrainConfig) -> tuple[int, str]:
    """Return the optimizer steps of the weights, and how they are known."""
    if config.steps is not None:
        return config.steps, "command line"
    if weights.step is not None:
        return weights.step, "checkpoint"
    papers = run.size.name in ("125m", "350m", "760m", "1.3b")
    return (run.recipe.steps, "recipe of the paper's size") if papers else (0, "nothing")


COMMAND = Command("import", ImportConfig, import_weights, HELP, aliases={"from": "source"})


def main() -> None:
    """Run ``ttt-import``."""
    words = sys.argv[1:]
    if not any(word.startswith(("from=", "-")) for word in words):
        stop("from= is missing: a folder or file of weights, or OWNER/NAME of a model on the hub; see --help", 2)
    COMMAND.main(words)


if __name__ == "__main__":
    main()
