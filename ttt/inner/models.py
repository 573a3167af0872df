"""Inner models: the function f_res whose parameters W are a TTT layer's hidden state.

Shapes: B batch, H heads, T tokens, D head width, I and O a layer's input and output width.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Params = tuple[Tensor, ...]
"""W as (W1, b1, W2, b2, ...), each [H, I, O] and [H, 1, O], or with a batch axis in front."""

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return F.gelu(x, approximate="tanh")


def gelu_derivative(x: Tensor) -> Tensor:
    """D gelu(x) / d x, itself differentiable by autograd."""
    square = x * x
    tanh = torch.tanh(SQRT_2_OVER_PI * x * (1 + GELU_CUBIC * square))
    slope = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * square)
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope


@dataclass(frozen=True)
class InnerMLP:
    """A stack of affine maps with GELU between them; without hidden layers it is linear.

    TTT-Linear is ``InnerMLP()`` and TTT-MLP ``InnerMLP(hidden=(4,))`` (Section 2.7 of the paper).

    Attributes:
        hidden: widths of the hidden layers as multiples of D.
    """

    hidden: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """Number of affine maps."""
        return len(self.hidden) + 1

    def shapes(self, head_dim: int) -> dict[str, tuple[int, int]]:
        """Name and shape of every parameter of one head, in the order of ``Params``."""
        widths = [head_dim, *(factor * head_dim for factor in self.hidden), head_dim]
        shapes: dict[str, tuple[int, int]] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            shapes[f"W{layer}"] = (inputs, outputs)
            shapes[f"b{layer}"] = (1, outputs)
        return shapes

    def __call__(self, W: Params, u: Tensor) -> Tensor:
        """f_res(u; W): [..., T, D] -> [..., T, D]."""
        for layer in range(self.depth):
            u = u @ W[2 * layer] + W[2 * layer + 1]
            if layer < self.depth - 1:
                u = gelu(u)
        return u


INNER_MODELS: dict[str, InnerMLP] = {"linear": InnerMLP(), "mlp": InnerMLP(hidden=(4,))}
"""``model.inner_model`` key -> inner model."""
