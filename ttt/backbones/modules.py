"""Modules that the backbones share.

Shapes: B batch, T tokens, C model width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttt.kernels.cpu.decode import NoTokenStepsError, TokenSteps
from ttt.kernels.matmul import product
from ttt.layers.state import SequenceLayer, State
from ttt.layers.views import linear

NORM_EPS = 1e-6


def rms_norm(width: int) -> nn.RMSNorm:
    """Return an RMSNorm over the model width, without shift."""
    return nn.RMSNorm(width, eps=NORM_EPS)


def token_steps(module: nn.Module | SequenceLayer, steps: TokenSteps, x_C: Tensor, state: State) -> Tensor:
    """Add the steps of one token of a layer or a block.

    Raises:
        NoTokenStepsError: it has none.
    """
    add = getattr(module, "token_steps", None)
    if add is None:
        raise NoTokenStepsError(f"{type(module).__name__} has none")
    y_C: Tensor = add(steps, x_C, state)
    return y_C


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), the feed-forward part of a block. [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int, hidden: int, init_std: float) -> None:
        super().__init__()
        self.gate = linear(width, hidden, init_std)
        self.up = linear(width, hidden, init_std)
        self.down = linear(hidden, width, init_std)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Gate and project back."""
        return _GatedDown.apply(self.gate(x_BTC), self.up(x_BTC), self.down.weight, self.down.kernel.matmul)

    def token_steps(self, steps: TokenSteps, x_C: Tensor) -> Tensor:
        """Add the gate and both projections of one token."""
        gate, up = steps.linear(x_C, self.gate.weight), steps.linear(x_C, self.up.weight)
        steps.gate(gate, up, "silu")
        return steps.linear(up, self.down.weight)


class _GatedDown(torch.autograd.Function):
    """down(silu(gate) * up), which recomputes its two wide products in the backward pass instead of keeping them.

    They are the largest tensors of a block: keeping them would take a quarter of the memory of a training step.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, library: str) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.library = library
        return product(F.silu(gate) * up, weight.to(gate.dtype), library)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gate, up, weight = ctx.saved_tensors
        silu = F.silu(gate)
        d_weight = d_out.flatten(0, -2).mT @ (silu * up).flatten(0, -2)
        d_product = product(d_out, weight.to(d_out.dtype).mT, ctx.library)
        d_gate = torch.ops.aten.silu_backward(d_product * up, gate)
        return d_gate, d_product.mul_(silu), d_weight.to(weight.dtype), None
