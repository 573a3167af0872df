"""What the kernels share: a sequence form out of one that reads whole mini-batches alone, W as it reads it.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.scan import Form

Kernel = Callable[[Params, LayerNormParams, Tokens, Tensor], tuple[Tensor, Params]]
"""``(W, norm, tokens, tau)`` -> z and W after the last token, for T a multiple of b, a loop that ``unfit`` passes."""


def with_biases(W: Params) -> tuple[Params, bool]:
    """W with biases, zero where it has none, as the kernels read it, and whether it has its own.

    Args:
        W: (W1, b1), (W1, b1, W2, b2), (W1,) or (W1, W2); [B, H, I, O], biases [B, H, 1, O].
    """
    bias = len(W) > 1 and W[1].shape[2] == 1
    if not bias:
        W = tuple(tensor for w in W for tensor in (w, torch.zeros_like(w[:, :, :1])))
    return W, bias


def unfit(loop: InnerLoop) -> str | None:
    """Why no kernel computes ``loop``, or None: kernels know the released code's two layers alone."""
    model = loop.model
    if not isinstance(model, InnerMLP) or model.depth > 2 or model.activation != "gelu":
        return "it knows linear inner models and MLPs of one hidden layer with GELU"
    if not (loop.norm and loop.residual):
        return "it knows f with LN and residual alone"
    return "it knows no momentum" if loop.momentum else None


def in_whole_mini_batches(kernel: Kernel, rest: Form) -> Form:
    """The kernel for all whole mini-batches, ``rest`` for what a piece of a sequence has before and after them."""

    def form(
        loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        b = tau.numel()
        begun = min(-state.place % b, tokens.length)
        whole = (tokens.length - begun) // b * b
        if not whole:
            return rest(loop, norm, state, tokens, tau)
        lengths = [begun, whole, tokens.length - begun - whole]
        outputs = []
        for number, piece in enumerate(tokens.split(lengths)):
            if not lengths[number]:
                continue
            if number == 1:
                # The loss's factor multiplies every gradient, and so does eta.
                piece = piece._replace(eta=2 * loop.loss_factor * piece.eta)
                z, W = kernel(state.W, norm, piece, tau)
                state = InnerState(W)
            else:
                z, state = rest(loop, norm, state, piece, tau)
            outputs.append(z)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)), state

    return form
