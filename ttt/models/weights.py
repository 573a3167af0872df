"""Load a language model's weights from a training checkpoint."""

from pathlib import Path

import torch
from torch import Tensor

from ttt.config.errors import UserError
from ttt.models.language_model import LanguageModel

PREFIX = "model."
"""Prefix of the language model's parameters in the training module."""


def load_weights(model: LanguageModel, path: Path) -> None:
    """Copy the weights of the checkpoint ``path`` into ``model``.

    Only tensors and plain containers are unpickled.

    Raises:
        UserError: the file cannot be read, is not a checkpoint, or belongs to another model.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items()})
    except Exception as error:  # torch raises many types for damaged files
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a checkpoint of this model ({reason}); use another or train again") from error
