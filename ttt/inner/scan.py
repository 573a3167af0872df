"""From one mini-batch to a sequence: W goes from mini-batch to mini-batch.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ttt.inner.checkpoint import recompute
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.models import InnerMLP, Params

MiniBatchForm = Callable[
    [InnerMLP, Params, LayerNormParams, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Params]
]
"""``primal_mini_batch``, ``dual_mini_batch`` or another form with their arguments and results."""


def scan(
    form: MiniBatchForm,
    model: InnerMLP,
    W_init: Params,
    norm: LayerNormParams,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    checkpoint_group: int = 0,
) -> tuple[Tensor, Params]:
    """Runs the inner loop over a whole sequence, in time linear in T.

    Args:
        form: what computes a mini-batch.
        model: the inner model.
        W_init: parameters before the first token, each [H, ...], shared by all sequences.
        norm: scale and shift of the inner model's LN, each [H, 1, D].
        q: test view [B, H, T, D]; ``k`` and ``v``, the train and label views, likewise.
        k: see ``q``.
        v: see ``q``.
        eta: inner learning rate [B, H, T].
        tau: token scale [b]; its length is the mini-batch size. A last, shorter mini-batch uses its beginning.
        checkpoint_group: mini-batches whose inner states the backward pass computes again instead of keeping
            (checkpointing through time); 0 keeps all.

    Returns:
        z [B, H, T, D] and the parameters after the last token, each [B, H, ...].
    """
    W = tuple(w.expand(q.shape[0], *w.shape) for w in W_init)

    def run(
        q: Tensor, k: Tensor, v: Tensor, eta: Tensor, tau: Tensor, scale: Tensor, shift: Tensor, *W: Tensor
    ) -> tuple[Tensor, ...]:
        outputs = []
        for q_b, k_b, v_b, eta_b in _split(tau.numel(), q, k, v, eta):
            z, W = form(model, W, LayerNormParams(scale, shift), q_b, k_b, v_b, eta_b, tau)
            outputs.append(z)
        return torch.cat(outputs, dim=2), *W

    if not checkpoint_group or not torch.is_grad_enabled():
        z, *W_last = run(q, k, v, eta, tau, *norm, *W)
        return z, tuple(W_last)
    outputs = []
    for group in _split(checkpoint_group * tau.numel(), q, k, v, eta):
        z, *W_next = recompute(run, *group, tau, *norm, *W)
        W = tuple(W_next)
        outputs.append(z)
    return torch.cat(outputs, dim=2), W


def _split(tokens: int, *sequences: Tensor) -> list[tuple[Tensor, ...]]:
    """Cuts sequences [B, H, T, ...] into pieces of ``tokens`` tokens, the last one shorter where T has a remainder.

    Splitting all of a sequence once, and joining once, keeps the backward pass linear in T: indexing a piece out of the
    whole would make autograd fill a zero tensor of the whole length for each of them.
    """
    return list(zip(*(x.split(tokens, dim=2) for x in sequences), strict=True))
