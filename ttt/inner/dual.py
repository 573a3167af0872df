"""The dual form: one mini-batch by matrix products only, without a W per token (Section 2.5, Appendix A).

Shapes: B batch, H heads, n tokens of a chunk, D head width, b mini-batch size.
"""

from typing import cast

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.rule import UpdateRule, update_rule


def dual_mini_batch(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
    """Compute ``primal_mini_batch`` with matrix products; ``loop.model`` must be an ``InnerMLP``.

    Every gradient of a mini-batch is taken at the same W, so token j changes layer l's weights by an outer product
    of its input X_j and output gradient G_j. The product of a query with all changed weights is then
    ``X_bar W - (mask * X_bar X^T) G``, an attention without softmax, and W_i is never formed.
    """
    gradients, rule = TokenGradients(loop, state.W, inputs), update_rule(loop.spec.momentum, inputs)
    z = dual_outputs(loop, state, inputs, gradients, rule)
    return z, dual_update(loop, state, inputs, gradients, rule)


class TokenGradients:
    """The gradients of a chunk's tokens at W, as factors: token j's gradient of a weight matrix is X_j^T G_j.

    Attributes:
        layers: X [B, H, n, I], the input of each affine map, and G [B, H, n, O], the gradient of the tokens' losses
            with respect to its output.
    """

    def __init__(self, loop: InnerLoop, W: Params, tokens: InnerInputs) -> None:
        self.model = cast(InnerMLP, loop.model)
        last = self.model.depth - 1
        inputs, outputs = [tokens.k], []
        for layer in range(last + 1):
            outputs.append(self.model.affine(W, layer, inputs[layer]))
            if layer < last:
                inputs.append(self.model.act.function(outputs[layer]))
        gradients = [loop.loss_gradient(outputs[last], tokens.k, tokens.v)]
        for layer in range(last, 0, -1):
            back = gradients[0] @ self.model.map(W, layer)[0].mT
            gradients.insert(0, back * self.model.act.derivative(outputs[layer - 1]))
        self.layers = list(zip(inputs, gradients, strict=True))

    def sum(self, weight: Tensor) -> Params:
        """Return for every parameter [B, H, ...] the sum over tokens of weight [B, H, n] times gradient."""
        total: list[Tensor] = []
        for x, gradient in self.layers:
            weighted = weight[..., None] * gradient
            total.append(x.mT @ weighted)
            if self.model.bias:
                total.append(weighted.sum(2, keepdim=True))
        return tuple(total)


def dual_outputs(
    loop: InnerLoop, state: InnerState, inputs: InnerInputs, gradients: TokenGradients, rule: UpdateRule
) -> Tensor:
    """Return z [B, H, n, D] of a chunk: token i's output under W_i, without forming W_i."""
    model, tau_n = gradients.model, loop.tau[state.offset : state.offset + inputs.length]
    mask = tau_n[:, None] * inputs.eta[:, :, None, :]
    mask = mask.tril() if rule.mix is None else mask * rule.mix
    x_bar = inputs.q
    for layer, (x, gradient) in enumerate(gradients.layers):
        scores = x_bar @ x.mT
        # The bias is the weight of an additional input that is always 1.
        scores = scores + 1 if model.bias else scores
        x_bar = _before_chunk(model, layer, state, rule, tau_n, x_bar) - (mask * scores) @ gradient
        x_bar = model.act.function(x_bar) if layer < model.depth - 1 else x_bar
    return loop.output(x_bar, inputs.q)


def _before_chunk(model: InnerMLP, layer: int, state: InnerState, rule: UpdateRule, tau_n: Tensor, x: Tensor) -> Tensor:
    """Return the layer's output without the chunk's own gradients: from W, the earlier gradients and the velocity."""
    z = model.affine(state.W, layer, x)
    decay = rule.decay
    if decay is not None:
        z = (decay if state.decay is None else decay * state.decay[..., None])[..., None] * z
    if state.grad_sum is not None:
        share = tau_n if decay is None else tau_n * decay
        z = z - share[..., None] * model.affine(state.grad_sum, layer, x)
    if state.momentum is not None:
        assert rule.velocity is not None
        z = z - (tau_n * rule.velocity)[..., None] * model.affine(state.momentum, layer, x)
    return z


def dual_update(
    loop: InnerLoop, state: InnerState, inputs: InnerInputs, gradients: TokenGradients, rule: UpdateRule
) -> InnerState:
    """Return the state after a chunk."""
    tau, beta = loop.tau, loop.spec.momentum
    offset = state.offset + inputs.length
    ends = offset == loop.mini_batch_size
    # At the end of a mini-batch, tau_b multiplies the small factors rather than the large sums.
    scale = tau[-1] if ends else torch.ones_like(tau[-1])
    weight = scale * inputs.eta
    grad_sum = gradients.sum(weight if rule.mix is None else rule.mix[..., -1, :] * weight)
    decay_n = None if rule.decay is None else rule.decay[..., -1]
    if state.grad_sum is not None:
        grad_sum = _add(grad_sum, scale if decay_n is None else scale * decay_n, state.grad_sum)
    momentum = None
    if state.momentum is not None:
        assert rule.velocity is not None
        grad_sum = _add(grad_sum, scale * rule.velocity[..., -1], state.momentum)
        exponent = torch.arange(inputs.length - 1, -1, -1, device=tau.device, dtype=tau.dtype)
        share = torch.as_tensor(beta**inputs.length, device=tau.device, dtype=tau.dtype)
        momentum = _add(gradients.sum(beta**exponent * inputs.eta), share, state.momentum)
    decay = decay_n if state.decay is None or decay_n is None else decay_n * state.decay
    if not ends:
        return InnerState(state.W, grad_sum, momentum, decay, offset)
    W = state.W if decay is None else tuple(decay[..., None, None] * w for w in state.W)
    return InnerState(tuple(w - s for w, s in zip(W, grad_sum, strict=True)), None, momentum)


def _add(P: Params, factor: Tensor, Q: Params) -> Params:
    """Return P + factor * Q; factor is a number or [B, H]."""
    factor = factor[..., None, None] if factor.ndim else factor
    return tuple(p + factor * q for p, q in zip(P, Q, strict=True))
