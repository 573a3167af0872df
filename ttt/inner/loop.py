"""What the inner loop learns and how: the switches of the paper's ablations, and the state between tokens.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams, layer_norm, standardised_gradient
from ttt.inner.models.base import InnerModel, Params


class Tokens(NamedTuple):
    """What the inner loop reads.

    Attributes:
        q: test view [B, H, T, D].
        k: train view [B, H, T, D].
        v: label view [B, H, T, D].
        eta: inner learning rate [B, H, T].
        log_keep: logarithm of the share of W that a forget gate keeps [B, H, T]; None: no forgetting.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    log_keep: Tensor | None = None

    @property
    def length(self) -> int:
        """T."""
        return self.q.shape[2]

    def split(self, lengths: list[int]) -> list["Tokens"]:
        """Cuts the tokens into pieces of ``lengths`` tokens.

        Splitting all once keeps the backward pass linear in T: indexing a piece out of the whole would make autograd
        fill a zero tensor of the whole length for each of them.
        """
        parts = [x.split(lengths, dim=2) for x in self if x is not None]
        return [Tokens(*piece) for piece in zip(*parts, strict=True)]


class InnerState(NamedTuple):
    """Everything that later tokens need of the earlier ones; each parameter [B, H, ...].

    Attributes:
        W: the parameters at the start of the current mini-batch.
        step: the sum of eta_j grad loss_j(W) over the mini-batch's tokens so far; None at its start.
        momentum: the velocity of the updates; None without momentum.
        kept: share [B, H] of W that the forget gate has kept since the mini-batch began; None at its start.
        place: how many tokens of the current mini-batch were read, 0 ... b - 1.
    """

    W: Params
    step: Params | None = None
    momentum: Params | None = None
    kept: Tensor | None = None
    place: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it without ``place``, in one row."""
        kept = () if self.kept is None else (self.kept,)
        return (*self.W, *(self.step or ()), *(self.momentum or ()), *kept)


@dataclass(frozen=True)
class InnerLoop:
    """f(u; W) = u + LN(f_res(u; W)), the loss 1/2 || f(k; W) - v ||^2, and gradient descent on it.

    Attributes:
        model: f_res.
        norm: whether f has the LN.
        residual: whether f adds its input.
        halved_loss: whether the loss has the released code's factor 1/2, which the paper's text has not.
        momentum: share of the last update that each update repeats; 0 is the paper's.
    """

    model: InnerModel
    norm: bool = True
    residual: bool = True
    halved_loss: bool = True
    momentum: float = 0.0

    @property
    def loss_factor(self) -> float:
        """The factor before || f(k; W) - v ||^2."""
        return 0.5 if self.halved_loss else 1.0

    def start(self, W_init: Params, batch: int) -> InnerState:
        """The state before the first token of ``batch`` sequences that share W_init, each [H, ...]."""
        W = tuple(w.expand(batch, *w.shape) for w in W_init)
        return InnerState(W, momentum=tuple(map(torch.zeros_like, W)) if self.momentum else None)

    def unpack(self, tensors: tuple[Tensor, ...], place: int, forgets: bool) -> InnerState:
        """The inverse of ``InnerState.tensors``, for a state of this loop with or without a forget gate."""
        rest = iter(tensors)
        extra = bool(place) + bool(self.momentum)
        count = (len(tensors) - (forgets and place > 0)) // (1 + extra)
        W, step = _take(rest, count), _take(rest, count) if place else None
        momentum = _take(rest, count) if self.momentum else None
        return InnerState(W, step, momentum, next(rest, None), place)

    def output(self, z: Tensor, u: Tensor, norm: LayerNormParams) -> Tensor:
        """F(u; W), given z = f_res(u; W)."""
        z = layer_norm(z, norm) if self.norm else z
        return u + z if self.residual else z

    def losses(self, z: Tensor, k: Tensor, v: Tensor, norm: LayerNormParams) -> Tensor:
        """The loss of every token [..., T], given z = f_res(k; W)."""
        return self.loss_factor * (self.output(z, k, norm) - v).square().sum(-1)

    def loss_gradient(self, z: Tensor, k: Tensor, v: Tensor, norm: LayerNormParams) -> Tensor:
        """The gradient of every token's loss with respect to z = f_res(k; W), by hand."""
        target = v - k if self.residual else v
        gradient = standardised_gradient(z, target, norm) if self.norm else z - target
        return gradient if self.halved_loss else 2 * gradient


def _take(tensors: Iterator[Tensor], count: int) -> Params:
    return tuple(islice(tensors, count))
