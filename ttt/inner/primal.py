"""The primal form: one token at a time, gradients by autograd. The reference for every faster kernel.

Shapes: B batch, H heads, n tokens of a chunk, D head width, b mini-batch size.
"""

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.models.base import Params


def primal_mini_batch(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
    """Compute W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W) and z_i = f(q_i; W_i) within one mini-batch.

    Section 2.4 of the paper. With momentum beta and a forget gate that keeps the share alpha_j, the sum is s_i of
    m_i = beta m_{i-1} + eta_i grad loss_i(W), s_i = alpha_i s_{i-1} + m_i, and W_i = alpha_1 ... alpha_i W - tau_i s_i.

    Args:
        loop: model, loss and update rule.
        state: the state before these tokens.
        inputs: n tokens that stay within the current mini-batch.

    Returns:
        z [B, H, n, D] and the state after the last token.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        W = tuple(w if w.requires_grad and differentiable else w.detach().requires_grad_() for w in state.W)
        grad_sum = state.grad_sum or tuple(map(torch.zeros_like, W))
        momentum = state.momentum or tuple(map(torch.zeros_like, W))
        decay = W[0].new_ones(W[0].shape[:2]) if state.decay is None else state.decay
        W_i, outputs = W, []
        for i in range(inputs.length):
            q_i, k_i, v_i = (x[:, :, i : i + 1] for x in inputs[:3])
            losses = loop.losses(loop.model(W, k_i), k_i, v_i)
            # Every sequence and head has its own W, so the sum of the losses keeps their gradients apart.
            gradients = torch.autograd.grad(losses.sum(), W, create_graph=differentiable, materialize_grads=True)
            momentum = _sum(loop.spec.momentum, momentum, _scaled(inputs.eta[:, :, i], gradients))
            if inputs.log_decay is not None:
                alpha = inputs.log_decay[:, :, i].exp()
                grad_sum, decay = _scaled(alpha, grad_sum), alpha * decay
            grad_sum = _sum(1.0, grad_sum, momentum)
            W_i = _sum(-loop.tau[state.offset + i], grad_sum, _scaled(decay, W))
            outputs.append(loop.output(loop.model(W_i, q_i), q_i))
    z, offset = torch.cat(outputs, dim=2), state.offset + inputs.length
    velocity = momentum if loop.spec.momentum else None
    if offset == loop.mini_batch_size:
        last = InnerState(W_i, None, velocity)
    else:
        last = InnerState(state.W, grad_sum, velocity, None if inputs.log_decay is None else decay, offset)
    if differentiable:
        return z, last
    return z.detach(), last.with_tensors(tuple(x.detach() for x in last.tensors), last.offset)


def _scaled(factor_BH: Tensor, P: Params) -> Params:
    return tuple(factor_BH[(..., *[None] * (p.ndim - 2))] * p for p in P)


def _sum(factor: Tensor | float, P: Params, Q: Params) -> Params:
    """Return factor * P + Q, parameter by parameter."""
    return tuple(factor * p + q for p, q in zip(P, Q, strict=True))
