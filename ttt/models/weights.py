"""Weights of a language model out of a training checkpoint."""

from pathlib import Path

import torch
from torch import Tensor

from ttt.config.errors import UserError
from ttt.models.language_model import LanguageModel

PREFIX = "model."
"""Where the training module keeps the language model."""


def load_weights(model: LanguageModel, path: Path) -> None:
    """Copies the weights of the checkpoint ``path`` into ``model``.

    Only tensors and plain containers are unpickled.

    Raises:
        UserError: the file cannot be read, is no checkpoint, or belongs to another model.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items()})
    except Exception as error:  # torch raises a different type for every way in which a file can be damaged
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a checkpoint of this model ({reason}); use another or train again") from error
