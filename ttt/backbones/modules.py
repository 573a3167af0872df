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
from ttt.kernels.matmul import add_product, autocast, product, sum_of_products
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
        kernel, device = self.down.kernel, x_BTC.device.type
        x_BTC, *weights = autocast(x_BTC, self.gate.weight, self.up.weight, self.down.weight)
        compiled = computes_compiled(kernel, x_BTC, *weights)
        with torch.autocast(device, enabled=False):
            y_BTC: Tensor = _SwiGLU.apply(x_BTC, *weights, kernel.matmul, compiled)
        return y_BTC

    def token_steps(self, steps: TokenSteps, x_C: Tensor) -> Tensor:
        """Add the gate and both projections of one token."""
        gate, up = steps.linear(x_C, self.gate.weight), steps.linear(x_C, self.up.weight)
        steps.gate(gate, up, "silu")
        return steps.linear(up, self.down.weight)


class _SwiGLU(torch.autograd.Function):
    """down(silu(gate x) * up x), which keeps x and the two wide products, and computes the gated one again.

    They are the largest tensors of a block: the gated product would take another eighth of the memory of a training
    step. As one node, it adds the gradient of x in place, and has the gradients of the wide products for a few tokens
    at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_weight: Tensor, up_weight: Tensor, down_weight: Tensor, library: str, compiled: bool
    ) -> Tensor:
        gate, up = product(x, gate_weight, library), product(x, up_weight, library)
        ctx.save_for_backward(x, gate, up, gate_weight, up_weight, down_weight)
        ctx.library, ctx.compiled = library, compiled
        gated = pointwise.gated_product(gate, up) if compiled else F.silu(gate) * up
        return product(gated, down_weight, library)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        *by_token, gate_weight, up_weight, down_weight = ctx.saved_tensors
        backward = pointwise.gated_product_backward if ctx.compiled else gated_product_backward
        dx_parts: list[Tensor] = []
        d_weights: list[Tensor | None] = [None] * 3
        parts = (x.flatten(0, -2).split(LONGEST_PART) for x in (d_out, *by_token))
        for d_out_part, x_part, gate, up in zip(*parts, strict=True):
            d_gated = product(d_out_part, down_weight.mT, ctx.library)
            d_gate, d_up, gated = backward(d_gated, gate, up)
            dx_part = product(d_gate, gate_weight.mT, ctx.library)
            add_product(dx_part, d_up, up_weight.mT, ctx.library)
            dx_parts.append(dx_part)
            pairs = (d_gate, x_part), (d_up, x_part), (d_out_part, gated)
            d_weights = [sum_of_products(of, dz.mT, z) for of, (dz, z) in zip(d_weights, pairs, strict=True)]
        dx = dx_parts[0] if len(dx_parts) == 1 else torch.cat(dx_parts)
        return dx.view(d_out.shape), *(None if x is None else x.to(dx.dtype) for x in d_weights), None, None


def gated_product_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate and up, and silu(gate) * up."""
    silu = F.silu(gate)
    return torch.ops.aten.silu_backward(upstream * up, gate), upstream * silu, silu * up
