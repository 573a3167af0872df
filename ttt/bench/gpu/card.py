"""The GPU of the stages, or one line about why there is none."""

import torch

from ttt.config.errors import UserError
from ttt.kernels.triton_probe import why_triton_fails


def card() -> torch.device:
    """Return the GPU.

    Raises:
        UserError: this machine has none that this PyTorch and its Triton can use.
    """
    device = any_card()
    if reason := why_triton_fails(device):
        raise UserError(f"no card: {reason}")
    return device


def any_card() -> torch.device:
    """Return the GPU, whether or not Triton can use it.

    Raises:
        UserError: this machine has none that this PyTorch can use.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    raise UserError(f"no card: {_why_none()}")


def _why_none() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a build for the card's driver"
    return (
        f"torch finds no GPU; either there is none, or its driver is too old for CUDA {torch.version.cuda} "
        "(nvidia-smi shows the newest CUDA that a driver supports)"
    )
