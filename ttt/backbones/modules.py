"""Modules that the backbones share.

Shapes: B batch, T tokens, C model width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ttt.kernels.cpu import pointwise
from ttt.kernels.cpu.decode import NoTokenStepsError, TokenSteps
from ttt.kernels.dispatch import computes_compiled
from ttt.kernels.matmul import product
from ttt.layers.by_kernel import ByKernel
from ttt.layers.state import SequenceLayer, State
from ttt.layers.views import linear

NORM_EPS = 1e-6

LONGEST_PART = 4096
"""Tokens whose wide products SwiGLU has at once in its backward pass."""


class RMSNorm(nn.RMSNorm, ByKernel):
    """RMSNorm over the model width, without shift. [..., C] -> [..., C].

    On CPUs the compiled kernel computes it where ``kernel.name`` allows it.
    """

    eps: float

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Norm every token."""
        if computes_compiled(self.kernel, x, self.weight):
            return pointwise.rms_norm(x, self.weight, self.eps)
        return super().forward(x)

    def of_sum(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return h + y and its norm; the compiled kernel computes both at once."""
        if computes_compiled(self.kernel, h, y, self.weight):
            return pointwise.sum_rms_norm(h, y, self.weight, self.eps)
        total = h + y
        return total, self(total)


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
        gate, up, down = self.gate(x_BTC), self.up(x_BTC), self.down
        compiled = computes_compiled(down.kernel, gate, up)
        return _GatedDown.apply(gate, up, down.weight, down.kernel.matmul, compiled)

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
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, library: str, compiled: bool) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.library, ctx.compiled = library, compiled
        gated = pointwise.gated_product(gate, up) if compiled else F.silu(gate) * up
        return product(gated, weight.to(gate.dtype), library)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        gate, up, weight = ctx.saved_tensors
        backward = pointwise.gated_product_backward if ctx.compiled else gated_product_backward
        d_gate, d_up = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
        d_weight = torch.zeros_like(weight)
        parts = (x.flatten(0, -2).split(LONGEST_PART) for x in (d_out, gate, up, d_gate, d_up))
        for d_out_part, gate_part, up_part, d_gate_part, d_up_part in zip(*parts, strict=True):
            d_gated = product(d_out_part, weight.to(d_out.dtype).mT, ctx.library)
            of_gate, of_up, gated = backward(d_gated, gate_part, up_part)
            d_gate_part.copy_(of_gate)
            d_up_part.copy_(of_up)
            d_weight += d_out_part.mT @ gated
        return d_gate, d_up, d_weight, None, None


def gated_product_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate and up, and silu(gate) * up."""
    silu = F.silu(gate)
    return torch.ops.aten.silu_backward(upstream * up, gate), upstream * silu, silu * up
