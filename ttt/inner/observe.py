"""The inner loop with every W_i in sight: the losses before and after each update, for any inner model and rule.

Shapes: B batch, H heads, n tokens of a piece, D head width, b mini-batch size.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params
from ttt.inner.rule import rule_of
from ttt.inner.scan import piece_lengths

LONGEST_PIECE = 16
"""One W for every token of a piece is held at once: 2 MB a head for TTT-MLP at D = 64 and 16 tokens."""


class Observation(NamedTuple):
    """What each token does to W, [B, H, T] each.

    Attributes:
        loss_initial: the token's loss under W_0.
        loss_before: under W_{t-1}, the weights that the tokens before it left.
        loss_after: under W_t, after its own update.
        update_norm: || W_t - W_{t-1} ||, over all parameters.
        weight_norm: || W_t ||.
    """

    loss_initial: Tensor
    loss_before: Tensor
    loss_after: Tensor
    update_norm: Tensor
    weight_norm: Tensor


@torch.no_grad()
def observe(
    loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor, W_init: Params
) -> tuple[Tensor, InnerState, Observation]:
    """The outputs and the state of ``scan(primal_mini_batch, ...)``, and what happened to W, without gradients.

    Args:
        loop: what is learned.
        norm: scale and shift of LN, each [H, 1, D].
        state: what the tokens before have left.
        tokens: any number of them.
        tau: token scale [b].
        W_init: W_0, each [H, ...], for ``Observation.loss_initial``.

    Returns:
        z [B, H, T, D], the state after the last token, and the observation.
    """
    outputs, observations = [], []
    for piece in tokens.split(piece_lengths(tokens.length, tau.numel(), state.place, LONGEST_PIECE)):
        W_before = _weights(state, tau)
        W_i, last = _steps(loop, norm, state, piece, tau)
        W_previous = tuple(torch.cat((w[:, :, None], w_i[:, :, :-1]), 2) for w, w_i in zip(W_before, W_i, strict=True))
        W_0 = tuple(w[:, None] for w in W_init)
        initial, before, after = (_losses(loop, norm, W, piece) for W in (W_0, W_previous, W_i))
        change = tuple(w - v for w, v in zip(W_i, W_previous, strict=True))
        observations.append(Observation(initial, before, after, _norm(change), _norm(W_i)))
        outputs.append(_each(loop, norm, W_i, piece.q))
        state = last
    together = Observation(*(torch.cat(parts, dim=2) for parts in zip(*observations, strict=True)))
    return torch.cat(outputs, dim=2), state, together


def _weights(state: InnerState, tau: Tensor) -> Params:
    """The weights that the last token has left, [B, H, ...] each."""
    if state.step is None:
        return state.W
    kept = torch.ones_like(tau[0]) if state.kept is None else state.kept
    return tuple(_like(kept, w) * w - tau[state.place - 1] * step for w, step in zip(state.W, state.step, strict=True))


def _steps(
    loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
) -> tuple[Params, InnerState]:
    """Every W_i of a piece, [B, H, n, ...] each, and the state after it."""
    gradients, rule = _token_gradients(loop, norm, state.W, tokens), rule_of(loop.momentum, tokens)
    ones = torch.ones_like(tokens.eta)
    mix = ones.new_ones(tokens.length, tokens.length).tril() if rule.mix is None else rule.mix
    keep = ones if rule.keep is None else rule.keep
    kept = keep if state.kept is None else keep * state.kept[..., None]
    step = _mixed(mix * tokens.eta[:, :, None], gradients)
    if state.step is not None:
        step = tuple(s + _like(keep, s) * before[:, :, None] for s, before in zip(step, state.step, strict=True))
    momentum = None
    if state.momentum is not None:
        assert rule.velocity is not None
        velocity = rule.velocity.expand_as(ones)
        step = tuple(s + _like(velocity, s) * m[:, :, None] for s, m in zip(step, state.momentum, strict=True))
        # m_n is s_n without what s_{n-1} and the gate gave: a piece of its own that nothing is kept of.
        exponent = torch.arange(tokens.length - 1, -1, -1, device=tau.device, dtype=tau.dtype)
        fresh = _mixed((loop.momentum**exponent * tokens.eta)[:, :, None], gradients)
        decay = loop.momentum**tokens.length
        momentum = tuple(decay * m + new[:, :, 0] for m, new in zip(state.momentum, fresh, strict=True))
    place = state.place + tokens.length
    tau_n = tau[state.place : place].expand_as(ones)
    W_i = tuple(_like(kept, s) * w[:, :, None] - _like(tau_n, s) * s for w, s in zip(state.W, step, strict=True))
    if place == tau.numel():
        return W_i, InnerState(tuple(w[:, :, -1] for w in W_i), None, momentum)
    last_kept = None if tokens.log_keep is None else kept[..., -1]
    return W_i, InnerState(state.W, tuple(s[:, :, -1] for s in step), momentum, last_kept, place)


def _token_gradients(loop: InnerLoop, norm: LayerNormParams, W: Params, tokens: Tokens) -> Params:
    """The gradient of each token's loss at W, [B, H, n, ...] each."""

    def loss(W: Params, k: Tensor, v: Tensor) -> Tensor:
        k, v = k[:, :, None], v[:, :, None]
        return loop.losses(loop.model(W, k), k, v, norm).sum()

    return vmap(grad(loss), in_dims=(None, 2, 2), out_dims=2)(W, tokens.k, tokens.v)


def _mixed(weight: Tensor, P: Params) -> Params:
    """Sums over j of weight [B, H, i, j] times P [B, H, j, ...]."""
    return tuple((weight @ p.flatten(3)).unflatten(3, p.shape[3:]) for p in P)


def _losses(loop: InnerLoop, norm: LayerNormParams, W: Params, tokens: Tokens) -> Tensor:
    """The loss [B, H, n] of every token under its own W, each parameter [B, H, n, ...] or [H, 1, ...]."""
    k, v = tokens.k[:, :, :, None], tokens.v[:, :, :, None]
    return loop.losses(loop.model(W, k), k, v, _for_each(norm)).squeeze(3)


def _each(loop: InnerLoop, norm: LayerNormParams, W: Params, u: Tensor) -> Tensor:
    """F(u_i; W_i): [B, H, n, D] -> [B, H, n, D]."""
    u = u[:, :, :, None]
    return loop.output(loop.model(W, u), u, _for_each(norm)).squeeze(3)


def _for_each(norm: LayerNormParams) -> LayerNormParams:
    return LayerNormParams(norm.scale[:, None], norm.shift[:, None])


def _norm(P: Params) -> Tensor:
    """The norm over all parameters: [B, H, n, ...] each -> [B, H, n]."""
    return torch.stack([p.flatten(3).square().sum(-1) for p in P]).sum(0).sqrt()


def _like(factor: Tensor, p: Tensor) -> Tensor:
    """Factor with axes of 1 behind, to multiply p."""
    return factor[(..., *[None] * (p.ndim - factor.ndim))]
