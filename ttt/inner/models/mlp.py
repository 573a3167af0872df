"""Linear inner models and MLPs of any depth, which have a dual form.

Shapes: H heads, D head width, I and O a layer's input and output width.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ttt.inner.activations import ACTIVATIONS, Activation
from ttt.inner.models.base import Params


@dataclass(frozen=True)
class InnerMLP:
    """Affine maps with an activation between them; linear without hidden layers.

    TTT-Linear is ``InnerMLP()`` and TTT-MLP ``InnerMLP(hidden=(4,))`` (Section 2.7). ``Params`` are
    (W1, b1, W2, b2, ...), W [H, I, O] and b [H, 1, O]; without biases (W1, W2, ...).

    Attributes:
        hidden: widths of the hidden layers as multiples of D.
        activation: a key of ``ACTIVATIONS``.
        bias: whether the maps have biases: the released code has them, the paper's text does not.
    """

    hidden: tuple[int, ...] = ()
    activation: str = "gelu"
    bias: bool = True

    @property
    def depth(self) -> int:
        """Number of affine maps."""
        return len(self.hidden) + 1

    @property
    def act(self) -> Activation:
        """The activation and its derivative."""
        return ACTIVATIONS[self.activation]

    def shapes(self, head_dim: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter of one head."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(self.widths(head_dim), start=1):
            shapes[f"W{layer}"] = (inputs, outputs)
            if self.bias:
                shapes[f"b{layer}"] = (1, outputs)
        return shapes

    def widths(self, head_dim: int) -> list[tuple[int, int]]:
        """Return (I, O) of every affine map."""
        return list(pairwise([head_dim, *(factor * head_dim for factor in self.hidden), head_dim]))

    def initial(self, heads: int, head_dim: int, std: float) -> dict[str, Tensor]:
        """Draw normal weights and zero biases."""
        return {
            name: torch.zeros(heads, *shape) if name.startswith("b") else torch.randn(heads, *shape).mul_(std)
            for name, shape in self.shapes(head_dim).items()
        }

    def flops(self, head_dim: int) -> int:
        """Count one multiplication per weight."""
        return sum(2 * inputs * outputs for inputs, outputs in self.widths(head_dim))

    def map(self, P: Params, layer: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of affine map ``layer``, from 0, in W or anything with its structure."""
        return (P[2 * layer], P[2 * layer + 1]) if self.bias else (P[layer], None)

    def affine(self, P: Params, layer: int, x: Tensor) -> Tensor:
        """Apply affine map ``layer`` of ``P`` to x [..., tokens, I]."""
        weight, bias = self.map(P, layer)
        return x @ weight if bias is None else x @ weight + bias

    def __call__(self, W: Params, u: Tensor) -> Tensor:
        """Compute f_res(u; W): [..., tokens, D] -> [..., tokens, D]."""
        for layer in range(self.depth):
            u = self.affine(W, layer, u)
            if layer < self.depth - 1:
                u = self.act.function(u)
        return u
