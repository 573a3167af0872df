"""Any ``nn.Module`` as an inner model, through ``torch.func``.

Shapes: H heads, D head width.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ttt.inner.models.base import Params


class InnerModule:
    """The module ``build(head_dim)`` as a function of its parameters, for the primal form only.

    The module maps [tokens, D] to [tokens, D], treats every token separately, and has no buffers. Every head starts
    from its own initial values, drawn by the module.
    """

    def __init__(self, build: Callable[[int], nn.Module]) -> None:
        self.build = build
        self._empty = cache(self._without_values)

    def shapes(self, head_dim: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every parameter; dots in the module's names become underscores."""
        named = self._empty(head_dim).named_parameters()
        return {name.replace(".", "_"): tuple(parameter.shape) for name, parameter in named}

    def initial(self, heads: int, head_dim: int, std: float) -> dict[str, Tensor]:  # noqa: ARG002 - the module initialises itself
        """Return the initial values of ``heads`` new modules."""
        drawn = [[parameter.detach() for parameter in self.build(head_dim).parameters()] for _ in range(heads)]
        by_parameter = zip(*drawn, strict=True)
        return dict(zip(self.shapes(head_dim), map(torch.stack, by_parameter), strict=True))

    def flops(self, head_dim: int) -> int:
        """Count the matrix products of one token with torch's counter."""
        # Importing it takes 0.2 s, and the shipped inner models do not need it.
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self._empty(head_dim)(torch.empty(1, head_dim, device="meta"))
        return counter.get_total_flops()

    def __call__(self, W: Params, u: Tensor) -> Tensor:
        """Compute f_res(u; W): [..., tokens, D] -> [..., tokens, D]."""
        head_dim, lead = u.shape[-1], u.shape[:-2]
        module, shapes = self._empty(head_dim), self.shapes(head_dim).values()
        weights = [w.expand(*lead, *shape).reshape(-1, *shape) for w, shape in zip(W, shapes, strict=True)]
        names = [name for name, _ in module.named_parameters()]

        def apply(W: list[Tensor], u: Tensor) -> Tensor:
            return functional_call(module, dict(zip(names, W, strict=True)), (u,))

        return vmap(apply)(weights, u.reshape(-1, *u.shape[-2:])).unflatten(0, lead)

    def _without_values(self, head_dim: int) -> nn.Module:
        with torch.device("meta"):
            return self.build(head_dim)
