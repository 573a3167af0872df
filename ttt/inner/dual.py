"""The dual form: one mini-batch by matrix products alone, no per-token W (Section 2.5, Appendix A).

Shapes: B batch, H heads, n tokens of a piece, D head width, b mini-batch size.
"""

from typing import cast

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.rule import Rule, rule_of


def dual_mini_batch(
    loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
) -> tuple[Tensor, InnerState]:
    """What ``primal_mini_batch`` computes, with the same arguments and results; ``loop.model`` is an ``InnerMLP``.

    Every gradient of a mini-batch is taken at the same W, so token j changes layer l's weights by an outer product
    of its input X_j and output gradient G_j. The product of a query with all changed weights is then
    ``X_bar W - (mask * X_bar X^T) G``, an attention without softmax, and W_i is never formed.
    """
    gradients, rule = Gradients(loop, norm, state.W, tokens.k, tokens.v), rule_of(loop.momentum, tokens)
    z = dual_outputs(loop, norm, state, tokens, tau, gradients, rule)
    return z, dual_update(loop, state, tokens, tau, gradients, rule)


class Gradients:
    """All gradients of a piece at the same W, as factors: token j's for a weight is the outer product X_j^T G_j.

    Attributes:
        layers: X [B, H, n, I], the input of each affine map, and G [B, H, n, O], the gradient of the tokens' losses
            with respect to its output.
    """

    def __init__(self, loop: InnerLoop, norm: LayerNormParams, W: Params, k: Tensor, v: Tensor) -> None:
        self.model = cast(InnerMLP, loop.model)
        last = self.model.depth - 1
        inputs, outputs = [k], []
        for layer in range(last + 1):
            outputs.append(self.model.affine(W, layer, inputs[layer]))
            if layer < last:
                inputs.append(self.model.act.function(outputs[layer]))
        gradients = [loop.loss_gradient(outputs[last], k, v, norm)]
        for layer in range(last, 0, -1):
            back = gradients[0] @ self.model.map(W, layer)[0].mT
            gradients.insert(0, back * self.model.act.derivative(outputs[layer - 1]))
        self.layers = list(zip(inputs, gradients, strict=True))

    def sum(self, weight: Tensor) -> Params:
        """Sums over tokens, weight [B, H, n] times gradient, for every parameter [B, H, ...]."""
        total: list[Tensor] = []
        for x, gradient in self.layers:
            step = weight[..., None] * gradient
            total.append(x.mT @ step)
            if self.model.bias:
                total.append(step.sum(2, keepdim=True))
        return tuple(total)


def dual_outputs(
    loop: InnerLoop,
    norm: LayerNormParams,
    state: InnerState,
    tokens: Tokens,
    tau: Tensor,
    gradients: Gradients,
    rule: Rule,
) -> Tensor:
    """The z [B, H, n, D] of a piece, each with its own W_i, which is never formed."""
    model, tau_n = gradients.model, tau[state.place : state.place + tokens.length]
    mask = tau_n[:, None] * tokens.eta[:, :, None, :]
    mask = mask.tril() if rule.mix is None else mask * rule.mix
    x_bar = tokens.q
    for layer, (x, gradient) in enumerate(gradients.layers):
        scores = x_bar @ x.mT
        # The bias is the weight of one more input that is always 1.
        scores = scores + 1 if model.bias else scores
        x_bar = _carried(model, layer, state, rule, tau_n, x_bar) - (mask * scores) @ gradient
        x_bar = model.act.function(x_bar) if layer < model.depth - 1 else x_bar
    return loop.output(x_bar, tokens.q, norm)


def _carried(model: InnerMLP, layer: int, state: InnerState, rule: Rule, tau_n: Tensor, x: Tensor) -> Tensor:
    """The layer's output by what stood before the piece: W, the sum of steps so far, the velocity."""
    z = model.affine(state.W, layer, x)
    keep = rule.keep
    if keep is not None:
        z = (keep if state.kept is None else keep * state.kept[..., None])[..., None] * z
    if state.step is not None:
        share = tau_n if keep is None else tau_n * keep
        z = z - share[..., None] * model.affine(state.step, layer, x)
    if state.momentum is not None:
        assert rule.velocity is not None
        z = z - (tau_n * rule.velocity)[..., None] * model.affine(state.momentum, layer, x)
    return z


def dual_update(
    loop: InnerLoop, state: InnerState, tokens: Tokens, tau: Tensor, gradients: Gradients, rule: Rule
) -> InnerState:
    """The state after a piece."""
    place = state.place + tokens.length
    ends = place == tau.numel()
    # Where the mini-batch ends, tau_b joins the small factors rather than the large sums.
    scale = tau[-1] if ends else torch.ones_like(tau[-1])
    weight = scale * tokens.eta
    step = gradients.sum(weight if rule.mix is None else rule.mix[..., -1, :] * weight)
    keep_n = None if rule.keep is None else rule.keep[..., -1]
    if state.step is not None:
        step = _add(step, scale if keep_n is None else scale * keep_n, state.step)
    momentum = None
    if state.momentum is not None:
        assert rule.velocity is not None
        step = _add(step, scale * rule.velocity[..., -1], state.momentum)
        exponent = torch.arange(tokens.length - 1, -1, -1, device=tau.device, dtype=tau.dtype)
        decay = torch.as_tensor(loop.momentum**tokens.length, device=tau.device, dtype=tau.dtype)
        momentum = _add(gradients.sum(loop.momentum**exponent * tokens.eta), decay, state.momentum)
    kept = keep_n if state.kept is None or keep_n is None else keep_n * state.kept
    if not ends:
        return InnerState(state.W, step, momentum, kept, place)
    W = state.W if kept is None else tuple(kept[..., None, None] * w for w in state.W)
    return InnerState(tuple(w - s for w, s in zip(W, step, strict=True)), None, momentum)


def _add(P: Params, factor: Tensor, Q: Params) -> Params:
    """P + factor * Q; factor is a number or [B, H]."""
    factor = factor[..., None, None] if factor.ndim else factor
    return tuple(p + factor * q for p, q in zip(P, Q, strict=True))
