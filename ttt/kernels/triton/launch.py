"""From tensors to launches: layouts, outputs and scratch of every kernel.

Shapes: B batch, H heads, T tokens, D head width, F hidden width of TTT-MLP, b mini-batch size, N mini-batches.
W is (W1, b1) or (W1, b1, W2, b2), each [B, H, I, O] or [B, H, 1, O], float32.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.kernels.triton.configurations import Layer

PARAMETERS = ("W1", "b1", "W2", "b2")

ACTIVATIONS = ("Z1_scratch", "slope_bar", "X2_scratch", "X2_bar_scratch", "dZ1_part", "dH")
"""Arguments of ``mlp_backward`` for the activations of one mini-batch, [B, H, b, F]."""


class Views(NamedTuple):
    """The inputs of the kernels except W.

    q, k, v [B, T, H, D], eta [B, H, T], tau [b], scale and shift [H, D], and rotation [b, D], None if q and k are not
    rotated.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    tau: Tensor
    scale: Tensor
    shift: Tensor
    rotation: Tensor | None

    @classmethod
    def of(
        cls,
        scale: Tensor,
        shift: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        eta: Tensor,
        tau: Tensor,
        rotation: Tensor | None,
    ) -> "Views":
        """Return the views of the operator's tensors, q, k, v [B, H, T, D]; copies tensors in another memory order."""
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        eta, tau, scale, shift = (x.contiguous() for x in (eta, tau, scale, shift))
        return cls(q, k, v, eta, tau, scale, shift, rotation if rotation is None else rotation.contiguous())

    def arguments(self) -> dict[str, Tensor]:
        """Return the tensors by name. Triton needs one for every pointer; the kernels do not read that for None."""
        return self._asdict() | ({"rotation": self.tau} if self.rotation is None else {})

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """B, T, H, D."""
        B, T, H, D = self.q.shape
        return B, T, H, D

    @property
    def mini_batch_size(self) -> int:
        """The mini-batch size b."""
        return self.tau.numel()

    @property
    def mini_batches(self) -> int:
        """The number of mini-batches N."""
        return self.q.shape[1] // self.mini_batch_size

    def layer(self, W: Iterable[Tensor], bias: bool) -> Layer:
        """Return the layer that computes these views with W."""
        W1, *others = W
        hidden = W1.shape[-1] if len(others) > 1 else 0
        rotates = self.rotation is not None
        return Layer(self.q.dtype, self.q.shape[-1], self.mini_batch_size, hidden, bias, rotates=rotates)


def forward(
    views: Views, W: list[Tensor], group: int, bias: bool, keep: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return Z [B, T, H, D], W after the last mini-batch and, if ``keep``, W before every group, [groups, *w.shape]."""
    B, T, H, _ = views.sizes
    groups = -(-views.mini_batches // group) if keep else 0
    z, W_last = torch.empty_like(views.q), [w.new_empty(w.shape) for w in W]
    kept = [w.new_empty(groups, *w.shape) for w in W]
    if not views.mini_batches:
        return z, [w.clone() for w in W], kept
    W, shared = _start(W)
    arguments = views.arguments() | _named("{}", W) | _named("{}_last", W_last) | {"z": z}
    # Triton needs a tensor for every pointer. The kernels write W_kept only if KEEPS, G1 and G2 only if not OUTPUTS.
    arguments |= _named("{}_kept", kept if keep else W_last) | {"G1_kept": z, "G2_kept": z}
    numbers = {"first": 0, "count": views.mini_batches, "tokens": T, "heads": H, "shared": shared, "group": group}
    with torch.cuda.device_of(z):
        views.layer(W, bias).forward(keep, B * H).launch(B * H, **arguments, **numbers)
    return z, W_last, kept


class Gradients(NamedTuple):
    """Gradients of q, k, v [B, T, H, D], eta [B, H, T]; per program of tau [B, H, b], scale and shift [B, H, D]."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    deta: Tensor
    dtau: Tensor
    dscale: Tensor
    dshift: Tensor


def backward(views: Views, dz: Tensor, dW: list[Tensor], kept: list[Tensor], group: int, bias: bool) -> Gradients:
    """Return the gradients from ``dz`` [B, T, H, D] and ``dW``: on entry the gradient of W_last, on return of W."""
    B, _, H, D = views.sizes
    gradients = Gradients(
        torch.empty_like(views.q),
        torch.empty_like(views.k),
        torch.empty_like(views.v),
        torch.empty_like(views.eta),
        views.tau.new_zeros(B, H, views.mini_batch_size),
        views.scale.new_zeros(B, H, D),
        views.scale.new_zeros(B, H, D),
    )
    if not views.mini_batches:
        return gradients
    layer = views.layer(dW, bias)
    arguments = views.arguments() | gradients._asdict() | _named("d{}", dW) | {"dz": dz}
    with torch.cuda.device_of(dz):
        (_mlp_backward if layer.F else _linear_backward)(layer, views, arguments, kept, min(group, views.mini_batches))
    return gradients


def _linear_backward(layer: Layer, views: Views, arguments: dict[str, Tensor], kept: list[Tensor], group: int) -> None:
    """Launch two kernels per group, last group first: one stores W before each mini-batch, one computes gradients."""
    B, T, H, _ = views.sizes
    recompute, gradients = layer.recompute(), layer.backward(B * H)
    W_last = [torch.empty_like(w[0]) for w in kept]
    types = (views.q.dtype, torch.float32)
    scratch = [w.new_empty(group, *w.shape, dtype=dtype) for w, dtype in zip(W_last, types, strict=True)]
    # ``recompute`` writes no z.
    shared = arguments | _named("{}_last", W_last) | _named("{}_kept", scratch) | {"z": views.q}
    for number in reversed(range(kept[0].shape[0])):
        first = number * group
        numbers = {"first": first, "count": min(group, views.mini_batches - first), "tokens": T, "heads": H}
        start = _named("{}", [w[number] for w in kept])
        recompute.launch(B * H, **shared, **start, **numbers, shared=0, group=1)
        gradients.launch(B * H, **shared, **numbers)


def _mlp_backward(layer: Layer, views: Views, arguments: dict[str, Tensor], kept: list[Tensor], group: int) -> None:
    """Launch one kernel, with scratch for W, for G1 and G2 of a group, and for the activations of a mini-batch."""
    B, T, H, D = views.sizes
    b, scratch = views.mini_batch_size, views.q.new_empty
    arguments = arguments | _named("{}_kept", kept) | _named("{}_last", [torch.empty_like(w[0]) for w in kept])
    arguments |= {"G1_kept": scratch(group, B, H, b, layer.F), "G2_kept": scratch(group, B, H, b, D)}
    arguments |= {name: scratch(B, H, b, layer.F) for name in ACTIVATIONS}
    numbers = {"mini_batches": views.mini_batches, "tokens": T, "heads": H, "group": group}
    layer.backward(B * H).launch(B * H, **arguments, **numbers)


class Token(NamedTuple):
    """The state of one decoded token and of the next, each as W of the module, of one type; for no sum any tensors.

    Attributes:
        W: W at the start of the mini-batch.
        step: sum of the steps since then; not read at the first token of a mini-batch.
        W_next: written at the last token of a mini-batch: W of the next one.
        step_next: written at every other token: the sum including it.
        place: number of earlier tokens, one int32 on the device.
    """

    W: list[Tensor]
    step: list[Tensor]
    W_next: list[Tensor]
    step_next: list[Tensor]
    place: Tensor


def decode(views: Views, token: Token, bias: bool) -> Tensor:
    """Return Z [B, 1, H, D] of one token, and write the state after it."""
    B, _, H, _ = views.sizes
    z = torch.empty_like(views.q)
    W, shared = _start(token.W)
    arguments = views.arguments() | _named("{}", W) | _named("{}_sum", token.step) | {"z": z, "place": token.place}
    arguments |= _named("{}_next", token.W_next) | _named("{}_sum_next", token.step_next)
    kernel = views.layer(W, bias).decode(W[0].dtype)
    with torch.cuda.device_of(z):
        kernel.launch(B * H, **arguments, size=views.mini_batch_size, heads=H, shared=shared)
    return z


def _named(pattern: str, W: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the tensors by argument name: ``d{}`` gives dW1, db1 and so on."""
    return {pattern.format(name): w for name, w in zip(PARAMETERS, W, strict=False)}


def _start(W: list[Tensor]) -> tuple[list[Tensor], int]:
    """Return W contiguous, and 1 if all sequences share it: then each tensor is [H, ...], not copied B times."""
    if all(w.stride(0) == 0 or w.shape[0] == 1 for w in W):
        return [w[0].contiguous() for w in W], 1
    return [w.contiguous() for w in W], 0
