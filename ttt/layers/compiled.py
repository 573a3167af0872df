"""Blocks that torch.compile compiles around the kernels, which stay operators of their own.

Shapes: B batch, T tokens, C model width.
"""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ttt.config.errors import UserError
from ttt.kernels.dispatch import why_not_here
from ttt.layers.state import State

BACKEND = "inductor"


Forward = Callable[[Tensor, State | None], tuple[Tensor, State]]


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device, backend: str = BACKEND) -> None:
    """Compile each block, when it first computes gradients; names of parameters and checkpoints stay.

    Equal blocks share their code. Passes without gradients and passes that continue from a state run as they are:
    evaluation and probes read sequences of many lengths, and each would be compiled. Blocks that are recomputed in the
    backward pass must be compiled before ``ttt.models.checkpointing`` wraps them.

    Raises:
        UserError: there is no compiler for this device.
    """
    if backend == BACKEND:
        require_compiler(device)
    # RoPE: its complex products stay as they are, and its table is computed in each pass.
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    for block in blocks:
        compiled = torch.compile(block.forward, backend=backend, dynamic=False)
        block.forward = partial(_forward, block.forward, compiled)


def _forward(plain: Forward, compiled: Forward, h_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    return (compiled if torch.is_grad_enabled() and not state else plain)(h_BTC, state)


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
