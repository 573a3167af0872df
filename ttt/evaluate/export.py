"""The model of a trained run as files that other programs read."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save

from ttt.config.errors import bad_value
from ttt.data.vocabulary import tokenizer_file
from ttt.evaluate.run import load_run
from ttt.models.released import released_meta, to_released
from ttt.results.atomic import write_bytes
from ttt.results.record import RunFolder

WEIGHTS, CONFIG, RELEASED = "model.safetensors", "config.yaml", "released.json"


def refuse_other_files(out: Path, overwrite: bool) -> None:
    """Looks whether ``out`` may be written.

    Raises:
        UserError: it is a file, or a folder that is not empty, without ``overwrite``.
    """
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise bad_value("out", out, f"cannot be read ({error.strerror}); choose another folder") from error
    if taken and not (overwrite and out.is_dir()):
        raise bad_value("out", out, "holds other files; choose a new folder, or overwrite=true to write into this one")


def export_run(folder: RunFolder, out: Path, released: bool) -> list[Path]:
    """Writes the weights in float32, the run's configuration and its tokenizer; returns the files.

    Args:
        folder: a run with a checkpoint.
        out: where to write, made if it is missing.
        released: the released code's names, and beside them ``released.json``, the ``meta`` of ``from_released``.

    Raises:
        UserError: no run or no checkpoint that is whole, a model that the released code does not have, or a folder
            that cannot be written.
    """
    run = load_run(folder, torch.device("cpu"))
    meta = released_meta(run.config, run.model) if released else None
    state = to_released(run.model) if released else run.model.state_dict()
    # The largest first: it is what a disk has no room for.
    files = {
        WEIGHTS: save({name: value.contiguous() for name, value in state.items()}, metadata={"format": "pt"}),
        CONFIG: yaml.safe_dump(run.record["config"], sort_keys=False).encode(),
    }
    if meta is not None:
        files[RELEASED] = (json.dumps(meta, indent=2) + "\n").encode()
    tokenizer = tokenizer_file(run.corpus.folder)
    files[tokenizer.name] = tokenizer.read_bytes()
    # Everything that can be refused has been by now: a folder is not left with a part of its files.
    for name, content in files.items():
        write_bytes(out / name, content)
    return [out / name for name in sorted(files)]
