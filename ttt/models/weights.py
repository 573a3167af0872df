"""Load a language model's weights from a training checkpoint."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttt.config.errors import UserError, first_line

PREFIX = "model."
"""Prefix of the language model's parameters in the training module."""

TRAINING_STATE = ("loops", "global_step", "optimizer_states", "lr_schedulers")
"""Parts of a checkpoint that Lightning reads to resume the training, in addition to ``state_dict``."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the weights of the checkpoint ``path`` into ``model``.

    Raises:
        UserError: the file cannot be read, is not a checkpoint, or belongs to another model.
    """
    try:
        model.load_state_dict(_weights(_read(path)))
    except RuntimeError as error:
        raise _unusable(path, first_line(error)) from error


def load_mean_weights(model: nn.Module, paths: Sequence[Path]) -> None:
    """Copy the mean of the weights of several checkpoints into ``model``; of one checkpoint, its weights.

    Sums are in float64, one checkpoint after another in memory.

    Raises:
        UserError: as ``load_weights``.
    """
    sums: dict[str, Tensor] = {}
    for path in paths:
        load_weights(model, path)
        if len(paths) == 1:
            return
        for name, value in model.state_dict().items():
            sums[name] = sums[name] + value.double() if name in sums else value.double().clone()
    model.load_state_dict({name: value / len(paths) for name, value in sums.items()})


def check_resumable(model: nn.Module, path: Path) -> None:
    """Check that the training of ``model`` can resume from the checkpoint ``path``; ``model`` is not changed.

    Raises:
        UserError: as ``load_weights``, or the file has no state of the training.
    """
    content = _read(path)
    if missing := [part for part in TRAINING_STATE if part not in content]:
        raise _unusable(path, f"it has no {', '.join(missing)}")
    shapes = {name: tuple(value.shape) for name, value in _weights(content).items()}
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    different = sorted(name for name in shapes.keys() | needed.keys() if shapes.get(name) != needed.get(name))
    if different:
        raise _unusable(path, f"{different[0]} is {shapes.get(different[0])}, not {needed.get(different[0])}")


def _read(path: Path) -> Mapping[str, Any]:
    """Return a checkpoint, whose tensors stay on the disk until they are used.

    Only tensors and plain containers are unpickled.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # The message advises the user to load the file without this protection.
        reason = "it holds something other than tensors and plain containers, which is never loaded"
        raise _unusable(path, reason) from error
    except Exception as error:  # torch raises many types for damaged files
        raise _unusable(path, first_line(error)) from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise _unusable(path, "it has no state_dict of tensors")
    return content


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name).removeprefix(PREFIX): value for name, value in content["state_dict"].items()}


def _unusable(path: Path, reason: str) -> UserError:
    remedy = "remove it to use the previous one, or train again with overwrite=true"
    return UserError(f"{path}: not a checkpoint of this model ({reason}); {remedy}")
