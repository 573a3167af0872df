"""From tensors to launches: layouts, outputs and scratch of every kernel.

Shapes: B batch, H heads, T tokens, D head width, F hidden width of TTT-MLP, b mini-batch size, N mini-batches.
W is (W1, b1) or (W1, b1, W2, b2), W1 [B, H, I, O] and b1 [B, H, 1, O] and so on, float32.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.kernels.triton.configurations import Layer

PARAMETERS = ("W1", "b1", "W2", "b2")


class Views(NamedTuple):
    """What the kernels read besides W: q, k, v [B, T, H, D], eta [B, H, T], tau [b], scale and shift [H, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    tau: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, scale: Tensor, shift: Tensor, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, tau: Tensor) -> "Views":
        """From the operator's tensors, q, k, v [B, H, T, D]. Copies those that stand in memory in another order."""
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        return cls(q, k, v, *(x.contiguous() for x in (eta, tau, scale, shift)))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """B, T, H, D."""
        B, T, H, D = self.q.shape
        return B, T, H, D

    @property
    def mini_batches(self) -> int:
        """N."""
        return self.q.shape[1] // self.tau.numel()

    def layer(self, W: Iterable[Tensor], bias: bool) -> Layer:
        """Which kernels compute it."""
        W1, *others = W
        return Layer(self.q.dtype, self.q.shape[-1], self.tau.numel(), W1.shape[-1] if len(others) > 1 else 0, bias)


def forward(
    views: Views, W: list[Tensor], group: int, bias: bool, keep: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Z [B, T, H, D], W after the last mini-batch, and, where ``keep``, W before every group, [groups, *w.shape]."""
    B, T, H, _ = views.sizes
    groups = -(-views.mini_batches // group) if keep else 0
    z, W_last = torch.empty_like(views.q), [w.new_empty(w.shape) for w in W]
    kept = [w.new_empty(groups, *w.shape) for w in W]
    if not views.mini_batches:
        return z, [w.clone() for w in W], kept
    W, shared = _start(W)
    arguments = views._asdict() | _named("", W) | _named("_last", W_last) | _named("_kept", kept if keep else W_last)
    if len(W) == 4:
        arguments |= {"G1_kept": z, "G2_kept": z}
    numbers = {"first": 0, "count": views.mini_batches, "tokens": T, "heads": H, "shared": shared, "group": group}
    with torch.cuda.device_of(z):
        views.layer(W, bias).forward(keep).launch(B * H, **arguments, **numbers, z=z)
    return z, W_last, kept


class Gradients(NamedTuple):
    """Of q, k, v [B, T, H, D], of eta [B, H, T], and, a row for every program, of tau [B, H, b], scale and shift."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    deta: Tensor
    dtau: Tensor
    dscale: Tensor
    dshift: Tensor


def backward(views: Views, dz: Tensor, dW: list[Tensor], kept: list[Tensor], group: int, bias: bool) -> Gradients:
    """From the gradients of z [B, T, H, D] and W_last, group by group, the last first; ``dW`` becomes that of W."""
    B, _, H, D = views.sizes
    b = views.tau.numel()
    found = Gradients(
        torch.empty_like(views.q),
        torch.empty_like(views.k),
        torch.empty_like(views.v),
        torch.empty_like(views.eta),
        views.tau.new_zeros(B, H, b),
        views.scale.new_zeros(B, H, D),
        views.scale.new_zeros(B, H, D),
    )
    if not views.mini_batches:
        return found
    layer = views.layer(dW, bias)
    arguments = views._asdict() | found._asdict() | _named("", dW, "d") | {"dz": dz}
    with torch.cuda.device_of(dz):
        (_mlp_backward if layer.F else _linear_backward)(layer, views, arguments, kept, min(group, views.mini_batches))
    return found


def _linear_backward(layer: Layer, views: Views, arguments: dict[str, Tensor], kept: list[Tensor], group: int) -> None:
    """Two launches a group: W of all its mini-batches into one scratch, and the gradients."""
    B, T, H, _ = views.sizes
    recompute, gradients = layer.recompute(), layer.backward()
    W_last = [torch.empty_like(w[0]) for w in kept]
    types = (views.q.dtype, torch.float32)
    scratch = [w.new_empty(group, *w.shape, dtype=dtype) for w, dtype in zip(W_last, types, strict=True)]
    shared = arguments | _named("_last", W_last) | _named("_kept", scratch)
    for number in reversed(range(kept[0].shape[0])):
        first = number * group
        numbers = {"first": first, "count": min(group, views.mini_batches - first), "tokens": T, "heads": H}
        start = _named("", [x[number] for x in kept])
        recompute.launch(B * H, **shared, **start, **numbers, z=views.q, shared=0, group=1)
        gradients.launch(B * H, **shared, **numbers)


def _mlp_backward(layer: Layer, views: Views, arguments: dict[str, Tensor], kept: list[Tensor], group: int) -> None:
    """One launch, whose programs have W on its way back, G1 and G2 of a group and activations of a mini-batch."""
    B, T, H, D = views.sizes
    b, room = views.tau.numel(), views.q.new_empty
    arguments = arguments | _named("_kept", kept) | _named("_last", [torch.empty_like(w[0]) for w in kept])
    arguments |= {"G1_kept": room(group, B, H, b, layer.F), "G2_kept": room(group, B, H, b, D)}
    arguments |= {name: room(B, H, b, layer.F) for name in _ACTIVATIONS}
    numbers = {"mini_batches": views.mini_batches, "tokens": T, "heads": H, "group": group}
    layer.backward().launch(B * H, **arguments, **numbers)


def decode(views: Views, W: list[Tensor], step: list[Tensor], place: int, bias: bool) -> tuple[Tensor, list[Tensor]]:
    """Z [B, 1, H, D] of one token, and ``step`` with it, or W where the mini-batch ends. ``step`` may be empty."""
    B, _, H, _ = views.sizes
    z, after = torch.empty_like(views.q), [w.new_empty(w.shape) for w in W]
    W, shared = _start(W)
    summed = [x.contiguous() for x in step] or after
    arguments = views._asdict() | _named("", W) | _named("_sum", summed) | _named("_next", after)
    kernel = views.layer(W, bias).decode(bool(step), place + 1 == views.tau.numel())
    with torch.cuda.device_of(z):
        kernel.launch(B * H, **arguments, z=z, place=place, heads=H, shared=shared)
    return z, after


_ACTIVATIONS = ("Z1_room", "Z1_bar_room", "X2_room", "X2_bar_room", "dZ1_part", "dH")


def _named(suffix: str, W: Iterable[Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The kernels' arguments for the parameters of an inner model."""
    return {f"{prefix}{name}{suffix}": w for name, w in zip(PARAMETERS, W, strict=False)}


def _start(W: list[Tensor]) -> tuple[list[Tensor], int]:
    """W as the kernels read it, and 1 where all sequences share it: then it is read as [H, ...], not copied B times."""
    if all(w.stride(0) == 0 or w.shape[0] == 1 for w in W):
        return [w[0].contiguous() for w in W], 1
    return [w.contiguous() for w in W], 0
