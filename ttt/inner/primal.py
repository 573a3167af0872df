"""The primal form: one token at a time, gradients by autograd. The truth that every faster form is held against.

Shapes: B batch, H heads, n tokens of a piece, D head width, b mini-batch size.
"""

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params


def primal_mini_batch(
    loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
) -> tuple[Tensor, InnerState]:
    """A mini-batch or a piece of one: W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W), z_i = f(q_i; W_i).

    Section 2.4 of the paper. With momentum beta and a forget gate that keeps the share alpha_j, the sum is s_i of
    m_i = beta m_{i-1} + eta_i grad loss_i(W), s_i = alpha_i s_{i-1} + m_i, and W_i = alpha_1 ... alpha_i W - tau_i s_i.

    Args:
        loop: what is learned.
        norm: scale and shift of LN.
        state: what the tokens before have left.
        tokens: n tokens that stay within the current mini-batch.
        tau: token scale [b]; its length is the mini-batch size.

    Returns:
        z [B, H, n, D] and the state after the last token.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        W = tuple(w if w.requires_grad and differentiable else w.detach().requires_grad_() for w in state.W)
        step = state.step or tuple(map(torch.zeros_like, W))
        momentum = state.momentum or tuple(map(torch.zeros_like, W))
        kept = W[0].new_ones(W[0].shape[:2]) if state.kept is None else state.kept
        W_i, outputs = W, []
        for i in range(tokens.length):
            q_i, k_i, v_i = (x[:, :, i : i + 1] for x in tokens[:3])
            losses = loop.losses(loop.model(W, k_i), k_i, v_i, norm)
            # Every sequence and head has a W of its own, so the sum keeps their gradients apart.
            gradients = torch.autograd.grad(losses.sum(), W, create_graph=differentiable, materialize_grads=True)
            momentum = _sum(loop.momentum, momentum, _scaled(tokens.eta[:, :, i], gradients))
            if tokens.log_keep is not None:
                keep = tokens.log_keep[:, :, i].exp()
                step, kept = _scaled(keep, step), keep * kept
            step = _sum(1.0, step, momentum)
            W_i = _sum(-tau[state.place + i], step, _scaled(kept, W))
            outputs.append(loop.output(loop.model(W_i, q_i), q_i, norm))
    z, place = torch.cat(outputs, dim=2), state.place + tokens.length
    velocity = momentum if loop.momentum else None
    if place == tau.numel():
        last = InnerState(W_i, None, velocity)
    else:
        last = InnerState(state.W, step, velocity, None if tokens.log_keep is None else kept, place)
    return (z, last) if differentiable else (z.detach(), _detached(last))


def _scaled(factor_BH: Tensor, P: Params) -> Params:
    return tuple(factor_BH[(..., *[None] * (p.ndim - 2))] * p for p in P)


def _sum(factor: Tensor | float, P: Params, Q: Params) -> Params:
    """Factor * P + Q, parameter by parameter."""
    return tuple(factor * p + q for p, q in zip(P, Q, strict=True))


def _detached(state: InnerState) -> InnerState:
    def detach(P: Params | None) -> Params | None:
        return None if P is None else tuple(p.detach() for p in P)

    kept = None if state.kept is None else state.kept.detach()
    return InnerState(detach(state.W) or (), detach(state.step), detach(state.momentum), kept, state.place)
