"""The primal form: one token at a time, gradients by autograd. The truth that every faster form is held against.

Shapes: B batch, H heads, b tokens of a mini-batch (fewer in the last one), D head width.
"""

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams, layer_norm
from ttt.inner.models import InnerMLP, Params


def primal_mini_batch(
    model: InnerMLP, W: Params, norm: LayerNormParams, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, tau: Tensor
) -> tuple[Tensor, Params]:
    """One mini-batch: W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W) and z_i = f(q_i; W_i) (Section 2.4).

    Args:
        model: the inner model f_res.
        W: parameters at the start of the mini-batch, each [B, H, ...].
        norm: scale and shift of the inner model's LN.
        q: test view [B, H, b, D].
        k: train view [B, H, b, D].
        v: label view [B, H, b, D].
        eta: inner learning rate [B, H, b].
        tau: token scale [b].

    Returns:
        z [B, H, b, D] and the parameters after the last token.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        W = tuple(w if w.requires_grad and differentiable else w.detach().requires_grad_() for w in W)
        steps = tuple(torch.zeros_like(w) for w in W)
        W_i, outputs = W, []
        for i in range(q.shape[2]):
            q_i, k_i, v_i = (x[:, :, i : i + 1] for x in (q, k, v))
            gradients = torch.autograd.grad(_loss(model, W, norm, k_i, v_i), W, create_graph=differentiable)
            eta_i = eta[:, :, i, None, None]
            steps = tuple(step + eta_i * gradient for step, gradient in zip(steps, gradients, strict=True))
            W_i = tuple(w - tau[i] * step for w, step in zip(W, steps, strict=True))
            outputs.append(inner_prediction(model, W_i, norm, q_i))
    z = torch.cat(outputs, dim=2)
    return (z, W_i) if differentiable else (z.detach(), tuple(w.detach() for w in W_i))


def inner_prediction(model: InnerMLP, W: Params, norm: LayerNormParams, u: Tensor) -> Tensor:
    """f(u; W) = u + LN(f_res(u; W)) (Section 2.7)."""
    return u + layer_norm(model(W, u), norm)


def _loss(model: InnerMLP, W: Params, norm: LayerNormParams, k: Tensor, v: Tensor) -> Tensor:
    """Sum over B and H of 1/2 || f(k; W) - v ||^2; each of them has a W of its own, so a sum keeps them apart."""
    return 0.5 * (inner_prediction(model, W, norm, k) - v).square().sum()
