"""The inner loop: its model, loss and update rule, its inputs, and its state between tokens.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams, layer_norm, standardised_gradient
from ttt.inner.models.base import InnerModel, Params


class InnerInputs(NamedTuple):
    """Inputs of the inner loop for T tokens.

    Attributes:
        q: test view [B, H, T, D].
        k: train view [B, H, T, D].
        v: label view [B, H, T, D].
        eta: inner learning rate [B, H, T].
        log_decay: logarithm of the share of W that a forget gate keeps [B, H, T]; None: no forgetting.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    log_decay: Tensor | None = None

    @property
    def length(self) -> int:
        """T."""
        return self.q.shape[2]

    def split(self, lengths: list[int]) -> list["InnerInputs"]:
        """Split the tokens into chunks of ``lengths`` tokens.

        A single split keeps the backward pass linear in T: for slices, autograd would fill a zero tensor of the whole
        length for every chunk.
        """
        parts = [x.split(lengths, dim=2) for x in self if x is not None]
        return [InnerInputs(*chunk) for chunk in zip(*parts, strict=True)]


class InnerState(NamedTuple):
    """State of the inner loop after some tokens; each parameter [B, H, ...].

    Attributes:
        W: the parameters at the start of the current mini-batch.
        grad_sum: the sum of eta_j grad loss_j(W) over the mini-batch's tokens so far; None at its start.
        momentum: the velocity of the updates; None without momentum.
        decay: share [B, H] of W that the forget gate has kept since the mini-batch began; None at its start.
        offset: number of tokens of the current mini-batch read so far, 0 ... b - 1.
    """

    W: Params
    grad_sum: Params | None = None
    momentum: Params | None = None
    decay: Tensor | None = None
    offset: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in the order of the attributes, without those that are None."""
        decay = () if self.decay is None else (self.decay,)
        return (*self.W, *(self.grad_sum or ()), *(self.momentum or ()), *decay)

    def with_tensors(self, tensors: tuple[Tensor, ...], offset: int) -> "InnerState":
        """Return the state at ``offset`` with these tensors, in the order of ``self.tensors``."""
        rest = iter(tensors)

        def parameters() -> Params:
            return tuple(islice(rest, len(self.W)))

        W = parameters()
        grad_sum = parameters() if offset else None
        momentum = parameters() if self.momentum else None
        return InnerState(W, grad_sum, momentum, next(rest, None), offset)


@dataclass(frozen=True)
class InnerSpec:
    """The fixed choices of an inner loop: model, loss and update rule, with the switches of the paper's ablations.

    Attributes:
        model: f_res.
        layer_norm: whether f has the LN.
        residual: whether f adds its input.
        halved_loss: whether the loss has the factor 1/2 of the released code, which the paper's text omits.
        momentum: share of the last update that each update repeats; 0 in the paper.
    """

    model: InnerModel
    layer_norm: bool = True
    residual: bool = True
    halved_loss: bool = True
    momentum: float = 0.0

    @property
    def loss_factor(self) -> float:
        """The factor before || f(k; W) - v ||^2."""
        return 0.5 if self.halved_loss else 1.0

    def start(self, W_init: Params, batch: int) -> InnerState:
        """Return the state before the first token of ``batch`` sequences that share W_init, each [H, ...]."""
        W = tuple(w.expand(batch, *w.shape) for w in W_init)
        return InnerState(W, momentum=tuple(map(torch.zeros_like, W)) if self.momentum else None)


@dataclass(frozen=True)
class InnerLoop:
    """f(u; W) = u + LN(f_res(u; W)), the loss 1/2 || f(k; W) - v ||^2, and gradient descent on it.

    Attributes:
        spec: model, loss and update rule.
        norm: scale and shift of LN, each [H, 1, D]; unused without ``spec.layer_norm``.
        tau: token scale [b].
        rotation: exp(i angle) of RoPE for every place in a mini-batch, [b, D / 2], complex, by which q and k of the
            inputs shall be rotated; None: they are taken as they are. Mini-batch kernels do not read it.
    """

    spec: InnerSpec
    norm: LayerNormParams
    tau: Tensor
    rotation: Tensor | None = None

    @property
    def model(self) -> InnerModel:
        """f_res."""
        return self.spec.model

    @property
    def mini_batch_size(self) -> int:
        """The mini-batch size b."""
        return self.tau.numel()

    def output(self, z: Tensor, u: Tensor) -> Tensor:
        """Return f(u; W), given z = f_res(u; W)."""
        z = layer_norm(z, self.norm) if self.spec.layer_norm else z
        return u + z if self.spec.residual else z

    def losses(self, z: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the loss of every token [..., T], given z = f_res(k; W)."""
        return self.spec.loss_factor * (self.output(z, k) - v).square().sum(-1)

    def loss_gradient(self, z: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the gradient of every token's loss with respect to z = f_res(k; W), in closed form."""
        target = v - k if self.spec.residual else v
        gradient = standardised_gradient(z, target, self.norm) if self.spec.layer_norm else z - target
        return gradient if self.spec.halved_loss else 2 * gradient
