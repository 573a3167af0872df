"""Blocks that torch.compile compiles around the kernels, which stay operators of their own."""

from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import nn

from ttt.config.errors import UserError
from ttt.kernels.dispatch import why_not_here

BACKEND = "inductor"


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device, backend: str = BACKEND) -> None:
    """Compile the ``forward`` of each block when it is first called; names of parameters and checkpoints stay.

    Equal blocks share their code. Each new shape, such as a shorter chunk of a sequence, is compiled again, and after
    several of them any shape. Blocks that are recomputed in the backward pass must be compiled before
    ``ttt.models.checkpointing`` wraps them.

    Raises:
        UserError: there is no compiler for this device.
    """
    if backend == BACKEND:
        require_compiler(device)
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)


def require_compiler(device: torch.device) -> None:
    """Check that torch.compile can produce code for a device.

    Raises:
        UserError: it cannot.
    """
    if reason := _why_no_compiler(device):
        raise UserError(f"trainer.compile=true: {reason}; take trainer.compile=false")


def _why_no_compiler(device: torch.device) -> str | None:
    if device.type == "cpu":
        # The C++ compiler of the kernels is that of torch.compile. A traced model cannot fall back from the kernels.
        return why_not_here("cpu", device)
    if device.type == "cuda":
        return None if find_spec("triton") else "torch.compile needs Triton on a GPU; pip install triton"
    return f"torch.compile is not used on {device.type}"
