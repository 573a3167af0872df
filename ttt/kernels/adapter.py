"""Adapters for kernels that handle only whole mini-batches, and which inner loops these kernels support.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec, InnerState
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import InnerKernel

WholeKernel = Callable[[InnerLoop, Params, InnerInputs], tuple[Tensor, Params]]
"""``(loop, W, inputs)`` -> z and W after the last token, for the halved loss and T a multiple of b."""


def with_biases(W: Params) -> tuple[Params, bool]:
    """Return W with biases, zeros if it has none, and whether it has biases.

    Args:
        W: (W1, b1), (W1, b1, W2, b2), (W1,) or (W1, W2); [B, H, I, O], biases [B, H, 1, O].
    """
    bias = len(W) > 1 and W[1].shape[2] == 1
    if not bias:
        W = tuple(tensor for w in W for tensor in (w, torch.zeros_like(w[:, :, :1])))
    return W, bias


def why_unsupported(spec: InnerSpec) -> str | None:
    """Return why the compiled kernels, which support the released code's layers, cannot compute this loop, or None."""
    model = spec.model
    if not isinstance(model, InnerMLP) or model.depth > 2 or model.activation != "gelu":
        return "it supports only linear inner models and MLPs of one hidden layer with GELU"
    if not (spec.layer_norm and spec.residual):
        return "it supports only f with LN and residual"
    return "it supports no momentum" if spec.momentum else None


def for_any_length(kernel: WholeKernel, rest: InnerKernel) -> InnerKernel:
    """Return a kernel for any number of tokens: ``kernel`` for whole mini-batches, ``rest`` for all other tokens."""

    def adapted(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        b = loop.mini_batch_size
        before = min(-state.offset % b, inputs.length)
        whole = (inputs.length - before) // b * b
        if not whole:
            return rest(loop, state, inputs)
        if whole == inputs.length:
            # Splitting would copy the gradients of the views.
            z, W = kernel(loop, state.W, with_halved_loss(loop, inputs))
            return z, InnerState(W)
        lengths = [before, whole, inputs.length - before - whole]
        outputs = []
        for number, chunk in enumerate(inputs.split(lengths)):
            if not lengths[number]:
                continue
            if number == 1:
                z, W = kernel(loop, state.W, with_halved_loss(loop, chunk))
                state = InnerState(W)
            else:
                z, state = rest(loop, state, chunk)
            outputs.append(z)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)), state

    return adapted


def in_memory_order(x_BHTD: Tensor) -> Tensor:
    """Return a view in memory order [B, T, H, D], the order of a projection's output; a copy if it has another one."""
    x_BTHD = x_BHTD.transpose(1, 2)
    return x_BHTD if x_BTHD.is_contiguous() else x_BTHD.contiguous().transpose(1, 2)


def with_halved_loss(loop: InnerLoop, inputs: InnerInputs) -> InnerInputs:
    """Return inputs that give the same updates with the halved loss: eta includes the ratio of the loss factors."""
    return inputs._replace(eta=2 * loop.spec.loss_factor * inputs.eta)
