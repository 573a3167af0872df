"""From one mini-batch to a sequence: W goes from mini-batch to mini-batch.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.models import InnerMLP, Params

MiniBatchForm = Callable[
    [InnerMLP, Params, LayerNormParams, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Params]
]
"""``primal_mini_batch``, ``dual_mini_batch`` or another form with their arguments and results."""

MiniBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""q, k, v [B, H, b, D] and eta [B, H, b]."""


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
    # Splitting all inputs once, and joining once, keeps the backward pass linear in T: indexing a mini-batch out of
    # the whole tensor would make autograd fill a zero tensor of the whole length for each of them.
    mini_batches = list(zip(*(x.split(tau.numel(), dim=2) for x in (q, k, v, eta)), strict=True))
    W = tuple(w.expand(q.shape[0], *w.shape) for w in W_init)

    def run(W: Params, group: Sequence[MiniBatch]) -> tuple[Tensor, Params]:
        outputs = []
        for q_b, k_b, v_b, eta_b in group:
            z_b, W = form(model, W, norm, q_b, k_b, v_b, eta_b, tau)
            outputs.append(z_b)
        return torch.cat(outputs, dim=2), W

    if not checkpoint_group or not torch.is_grad_enabled():
        return run(W, mini_batches)
    outputs = []
    for start in range(0, len(mini_batches), checkpoint_group):
        group = mini_batches[start : start + checkpoint_group]
        z, W = checkpoint(run, W, group, use_reentrant=False, preserve_rng_state=False)
        outputs.append(z)
    return torch.cat(outputs, dim=2), W
