"""The inner loop with every W_i in memory, to record the losses before and after each update.

It supports every inner model and update rule.

Shapes: B batch, H heads, n tokens of a chunk, D head width, b mini-batch size.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.models.base import Params
from ttt.inner.rotation import rotated
from ttt.inner.rule import update_rule
from ttt.inner.scan import chunk_lengths

MAX_CHUNK = 16
"""Tokens per chunk. Each token's W is in memory: 2 MB per head for TTT-MLP at D = 64 and 16 tokens."""


class Observation(NamedTuple):
    """Effect of each token on W, [B, H, T] each.

    Attributes:
        loss_initial: the token's loss under W_0.
        loss_before: under W_{t-1}, the weights after the tokens before it.
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
    loop: InnerLoop, state: InnerState, inputs: InnerInputs, W_init: Params
) -> tuple[Tensor, InnerState, Observation]:
    """Compute ``scan(primal_mini_batch, ...)`` without gradients, and observe W at every token.

    Args:
        loop: model, loss and update rule.
        state: the state before these tokens.
        inputs: any number of tokens.
        W_init: W_0, each [H, ...], for ``Observation.loss_initial``.

    Returns:
        z [B, H, T, D], the state after the last token, and the observation.
    """
    loop, inputs = rotated(loop, state.offset, inputs)
    outputs, observations = [], []
    per_token = replace(loop, norm=LayerNormParams(loop.norm.scale[:, None], loop.norm.shift[:, None]))
    W_0 = tuple(w[:, None] for w in W_init)
    for chunk in inputs.split(chunk_lengths(inputs.length, loop.mini_batch_size, state.offset, MAX_CHUNK)):
        W_before = _weights(state, loop.tau)
        W_i, state = _steps(per_token, state, chunk)
        W_previous = tuple(torch.cat((w[:, :, None], w_i[:, :, :-1]), 2) for w, w_i in zip(W_before, W_i, strict=True))
        initial, before, after = (_losses(per_token, W, chunk) for W in (W_0, W_previous, W_i))
        change = tuple(w - v for w, v in zip(W_i, W_previous, strict=True))
        observations.append(Observation(initial, before, after, _norm(change), _norm(W_i)))
        u = chunk.q[:, :, :, None]
        outputs.append(per_token.output(loop.model(W_i, u), u).squeeze(3))
    together = Observation(*(torch.cat(parts, dim=2) for parts in zip(*observations, strict=True)))
    return torch.cat(outputs, dim=2), state, together


def _weights(state: InnerState, tau: Tensor) -> Params:
    """Return the weights after the last token, [B, H, ...] each."""
    if state.grad_sum is None:
        return state.W
    decay = torch.ones_like(tau[0]) if state.decay is None else state.decay
    tau_i = tau[state.offset - 1]
    return tuple(_like(decay, w) * w - tau_i * s for w, s in zip(state.W, state.grad_sum, strict=True))


def _steps(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Params, InnerState]:
    """Return every W_i of a chunk, [B, H, n, ...] each, and the state after it."""
    tau, beta = loop.tau, loop.spec.momentum
    gradients, rule = _token_gradients(loop, state.W, inputs), update_rule(beta, inputs)
    ones = torch.ones_like(inputs.eta)
    mix = ones.new_ones(inputs.length, inputs.length).tril() if rule.mix is None else rule.mix
    chunk_decay = ones if rule.decay is None else rule.decay
    decay = chunk_decay if state.decay is None else chunk_decay * state.decay[..., None]
    sums = _mixed(mix * inputs.eta[:, :, None], gradients)
    if state.grad_sum is not None:
        sums = _add(sums, chunk_decay, state.grad_sum)
    momentum = None
    if state.momentum is not None:
        assert rule.velocity is not None
        sums = _add(sums, rule.velocity.expand_as(ones), state.momentum)
        exponent = torch.arange(inputs.length - 1, -1, -1, device=tau.device, dtype=tau.dtype)
        fresh = _mixed((beta**exponent * inputs.eta)[:, :, None], gradients)
        share = beta**inputs.length
        momentum = tuple(share * m + new[:, :, 0] for m, new in zip(state.momentum, fresh, strict=True))
    offset = state.offset + inputs.length
    tau_n = tau[state.offset : offset].expand_as(ones)
    W_i = tuple(_like(decay, s) * w[:, :, None] - _like(tau_n, s) * s for w, s in zip(state.W, sums, strict=True))
    if offset == loop.mini_batch_size:
        return W_i, InnerState(tuple(w[:, :, -1] for w in W_i), None, momentum)
    last_decay = None if inputs.log_decay is None else decay[..., -1]
    return W_i, InnerState(state.W, tuple(s[:, :, -1] for s in sums), momentum, last_decay, offset)


def _add(P: Params, factor: Tensor, Q: Params) -> Params:
    """Return P [B, H, n, ...] + factor [B, H, n] * Q [B, H, ...], parameter by parameter."""
    return tuple(p + _like(factor, p) * q[:, :, None] for p, q in zip(P, Q, strict=True))


def _token_gradients(loop: InnerLoop, W: Params, inputs: InnerInputs) -> Params:
    """Return the gradient of each token's loss at W, [B, H, n, ...] each.

    ``torch.func.grad`` would import torch.compile's package, for which a whole run else has no need.
    """
    own = tuple(w[:, :, None].expand(*w.shape[:2], inputs.length, *w.shape[2:]).requires_grad_() for w in W)
    with torch.enable_grad():
        return torch.autograd.grad(_losses(loop, own, inputs).sum(), own)


def _mixed(weight: Tensor, P: Params) -> Params:
    """Return the sums over j of weight [B, H, i, j] times P [B, H, j, ...]."""
    return tuple((weight @ p.flatten(3)).unflatten(3, p.shape[3:]) for p in P)


def _losses(per_token: InnerLoop, W: Params, inputs: InnerInputs) -> Tensor:
    """Return the loss [B, H, n] of every token under its own W, each parameter [B, H, n, ...] or [H, 1, ...]."""
    k, v = inputs.k[:, :, :, None], inputs.v[:, :, :, None]
    return per_token.losses(per_token.model(W, k), k, v).squeeze(3)


def _norm(P: Params) -> Tensor:
    """Return the norm over all parameters: [B, H, n, ...] each -> [B, H, n]."""
    return torch.stack([p.flatten(3).square().sum(-1) for p in P]).sum(0).sqrt()


def _like(factor: Tensor, p: Tensor) -> Tensor:
    """Append axes of size 1 to ``factor``, so that it multiplies ``p``."""
    return factor[(..., *[None] * (p.ndim - factor.ndim))]
