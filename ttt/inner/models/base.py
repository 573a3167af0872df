"""What an inner model is.

Shapes: B batch, H heads, D head width.
"""

from typing import Protocol

from torch import Tensor

Params = tuple[Tensor, ...]
"""W: the inner model's parameters in the order of ``shapes``, each [H, ...], or [B, H, ...] with one W a sequence."""


class InnerModel(Protocol):
    """The parameters of f_res, and f_res as a pure function of them."""

    def shapes(self, head_dim: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of one head."""
        ...

    def initial(self, heads: int, head_dim: int, std: float) -> dict[str, Tensor]:
        """W_0 [H, ...] by name, drawn anew; ``std`` is the model's standard deviation of initial projections."""
        ...

    def flops(self, head_dim: int) -> int:
        """FLOPs of the matrix products of f_res for one token."""
        ...

    def __call__(self, W: Params, u: Tensor) -> Tensor:
        """f_res(u; W): [..., tokens, D] -> [..., tokens, D], token by token, differentiable in both."""
        ...
