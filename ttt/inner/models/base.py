"""The interface of an inner model.

Shapes: B batch, H heads, D head width.
"""

from typing import Protocol

from torch import Tensor

Params = tuple[Tensor, ...]
"""W: the inner model's parameters in the order of ``shapes``, each [H, ...], or [B, H, ...] with one W per sequence."""


class InnerModel(Protocol):
    """f_res as a pure function of its parameters."""

    def shapes(self, head_dim: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter of one head."""
        ...

    def initial(self, heads: int, head_dim: int, std: float) -> dict[str, Tensor]:
        """Draw W_0 [H, ...] by name; ``std`` is the standard deviation of the model's initial projections."""
        ...

    def flops(self, head_dim: int) -> int:
        """Return the FLOPs of the matrix products of f_res for one token."""
        ...

    def __call__(self, W: Params, u: Tensor) -> Tensor:
        """Compute f_res(u; W): [..., tokens, D] -> [..., tokens, D], per token, differentiable in both."""
        ...
