"""The dual form: one mini-batch by matrix products alone, no per-token W (Section 2.5, Appendix A).

Shapes: B batch, H heads, b tokens of a mini-batch (fewer in the last one), D head width.
"""

from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams, layer_norm, loss_gradient
from ttt.inner.models import InnerMLP, Params, gelu, gelu_derivative


def dual_mini_batch(
    model: InnerMLP, W: Params, norm: LayerNormParams, q: Tensor, k: Tensor, v: Tensor, eta: Tensor, tau: Tensor
) -> tuple[Tensor, Params]:
    """What ``primal_mini_batch`` computes, with the same arguments and results, by matrix products.

    Every gradient of a mini-batch is taken at the same W, so token j changes layer l's weights by an outer product
    of its input X_j and output gradient G_j. The product of a query with all changed weights is then
    ``X_bar W - (mask * X_bar X^T) G``, an attention without softmax, and W_i is never formed.
    """
    inputs, gradients = _gradients(model, W, norm, k, v)
    mask = (tau[: q.shape[2], None] * eta[:, :, None, :]).tril()
    x_bar = q
    W_last: list[Tensor] = []
    for layer, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        weight, bias = W[2 * layer], W[2 * layer + 1]
        # The bias is the weight of one more input that is always 1: hence the 1 beside the scores.
        z_bar = x_bar @ weight + bias - (mask * (x_bar @ x.mT + 1)) @ gradient
        step = mask[:, :, -1, :, None] * gradient
        W_last += [weight - x.mT @ step, bias - step.sum(2, keepdim=True)]
        x_bar = gelu(z_bar) if layer < model.depth - 1 else z_bar
    return q + layer_norm(x_bar, norm), tuple(W_last)


def _gradients(
    model: InnerMLP, W: Params, norm: LayerNormParams, k: Tensor, v: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Input of every layer and gradient of the loss with respect to its output, for all tokens at the same W."""
    inputs, pre_activations = [k], []
    for layer in range(model.depth):
        pre_activations.append(inputs[layer] @ W[2 * layer] + W[2 * layer + 1])
        if layer < model.depth - 1:
            inputs.append(gelu(pre_activations[layer]))
    gradients = [loss_gradient(pre_activations[-1], v - k, norm)]
    for layer in range(model.depth - 1, 0, -1):
        gradients.insert(0, (gradients[0] @ W[2 * layer].mT) * gelu_derivative(pre_activations[layer - 1]))
    return inputs, gradients


def dual_flops(model: InnerMLP, head_dim: int, tokens: int, mini_batch_size: int) -> int:
    """FLOPs of the matrix products of the dual form for one head and one sequence of ``tokens`` tokens.

    For every layer: output, weight update, a query's product with W, the two products of the attention-like
    correction, and for all but the first the gradient's way back.
    """
    b, rest = mini_batch_size, tokens % mini_batch_size
    pairs = tokens // b * b * b + rest * rest
    total = 0
    for layer in range(1, model.depth + 1):
        inputs, outputs = model.shapes(head_dim)[f"W{layer}"]
        products_with_W = 3 if layer == 1 else 4
        total += 2 * (products_with_W * tokens * inputs * outputs + pairs * (inputs + outputs))
    return total
