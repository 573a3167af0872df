"""Export of a trained model to files for other programs, and reading these files."""

import json
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ttt.config.errors import UserError, first_line
from ttt.config.plain import from_plain
from ttt.config.schema import DataConfig, KernelConfig, Resolved
from ttt.evaluate.run import kernel_here, load_run, restore_config
from ttt.kernels.dispatch import COMPILED
from ttt.layers.registry import layer_schema
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel
from ttt.models.released import from_released, released_meta, to_released
from ttt.models.released_meta import CONFIG_FILE, config_of
from ttt.results.atomic import write_bytes
from ttt.results.checkpoints import Choice
from ttt.results.record import RunFolder

WEIGHTS, CONFIG, RELEASED = "model.safetensors", "config.yaml", "released.json"


def export_run(
    folder: RunFolder,
    out: Path,
    released: bool,
    kernel: KernelConfig | None = None,
    choice: Choice = Choice(),  # noqa: B008 - frozen
) -> list[Path]:
    """Write the weights in float32, the run's configuration and its tokenizer; return the files.

    Args:
        folder: a run with a checkpoint.
        out: the folder to write, created if it is missing.
        released: use the released code's names, and add ``released.json``, the ``meta`` of ``from_released``, and the
            released code's ``config.json``.
        kernel: the kernel in the exported configuration; None: the training's, or ``auto`` in place of a compiled one,
            which other machines may lack.
        choice: the weights.

    Raises:
        UserError: there is no run or no undamaged checkpoint, the released code has no such model, or the folder
            cannot be written.
    """
    run = load_run(folder, torch.device("cpu"), kernel=KernelConfig(), choice=choice)
    meta = released_meta(restore_config(run.record.content), run.model) if released else None
    state = to_released(run.model) if released else run.model.state_dict()
    # The largest file first, so that a full disk is noticed before others are written.
    files = {
        WEIGHTS: save({name: value.contiguous() for name, value in state.items()}, metadata={"format": "pt"}),
        CONFIG: yaml.safe_dump(_with_kernel(run.record.content["config"], kernel), sort_keys=False).encode(),
    }
    if meta is not None:
        files[RELEASED] = (json.dumps(meta, indent=2) + "\n").encode()
        files[CONFIG_FILE] = (json.dumps(config_of(meta, run.reading.ctx), indent=2) + "\n").encode()
    tokenizer = run.tokenizer()
    files[tokenizer.name] = tokenizer.read_bytes()
    # All checks are done before the first file is written.
    for name, content in files.items():
        write_bytes(out / name, content)
    return [out / name for name in sorted(files)]


def load_export(folder: Path, device: torch.device, kernel: KernelConfig | None = None) -> LanguageModel:
    """Return the model in a folder of ``export_run``, in float32 on the CPU.

    Args:
        folder: the folder, with our parameter names or the released code's.
        device: where the model will compute, for the choice of the kernel.
        kernel: computes the inner loop; None: that of ``config.yaml``, or ``auto`` if it cannot run here.

    Raises:
        UserError: a file is missing, damaged or of another model, or ``kernel`` cannot compute this model.
    """
    try:
        state = load_file(folder / WEIGHTS)
        if (folder / RELEASED).exists():
            meta = json.loads((folder / RELEASED).read_text(encoding="utf-8"))
            return from_released(state, meta, kernel.name if kernel else "auto")
        plain = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        config = from_plain(plain, layer_schema(plain["model"]["name"]), DataConfig)
        chosen = kernel or kernel_here(config.kernel, device)
        model = build_model(config.model, config.size, config.backbone, chosen, len(state["embedding.weight"]))
        model.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, yaml.YAMLError, SafetensorError) as error:
        raise UserError(f"{folder}: not a folder of ttt-export ({first_line(error)}); export the run again") from error
    return model


def _with_kernel(config: Resolved, kernel: KernelConfig | None) -> Resolved:
    """Return a run's configuration with ``kernel``, see ``export_run``."""
    trained = config["kernel"]
    if kernel is None and trained["name"] not in COMPILED:
        return config
    return {**config, "kernel": {**trained, "name": "auto" if kernel is None else kernel.name}}
