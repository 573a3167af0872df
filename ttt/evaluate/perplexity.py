"""Perplexity on a split, and the loss by token index.

Shapes: T context length.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt.data.corpus import Documents
from ttt.data.usage import documents_in
from ttt.data.windows import windows_at_start, windows_within
from ttt.evaluate.losses import window_losses


@dataclass(frozen=True)
class SplitEvaluation:
    """The result of a model on a split.

    Attributes:
        loss: mean in nats per token over windows from anywhere in the documents.
        tokens: number of tokens in ``loss``.
        sequences: number of windows in ``loss``.
        loss_by_index: [T], mean loss at token index 1 ... T over documents read from their start.
        documents: number of documents in ``loss_by_index``, or of windows of joined documents.
        judged: number of documents with tokens in ``loss``.
    """

    loss: float
    tokens: int
    sequences: int
    loss_by_index: Tensor
    documents: int
    judged: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that is more than a float holds, above 709 nats."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


def evaluate_split(
    model: nn.Module,
    documents: Documents,
    ctx: int,
    eval_tokens: int,
    device: torch.device,
    device_tokens: int,
    show_progress: bool = True,
) -> SplitEvaluation:
    """Evaluate a model by two measures, each on at most ``eval_tokens`` tokens and at least one window.

    The loss by token index uses only documents longer than the context, each from its start, so that index t
    always means t tokens of context and no window mixes documents. Joined documents (``data.join``) are read in windows
    of the stream by both measures, and index t is the place in the window.

    Raises:
        UserError: no document is longer than the context.
    """
    count = max(1, eval_tokens // ctx)
    anywhere = windows_within(documents, ctx).subset(count)
    at_start = windows_at_start(documents, ctx).subset(count)
    losses = window_losses(model, anywhere, device, device_tokens, show_progress, "perplexity")
    by_index = window_losses(model, at_start, device, device_tokens, show_progress, "loss by token index")
    loss = mean_loss(losses)
    return SplitEvaluation(
        loss,
        len(anywhere) * ctx,
        len(anywhere),
        _mean_over_windows(by_index),
        len(at_start),
        documents_in(anywhere, documents),
    )


def mean_loss(losses: Iterable[Tensor]) -> float:
    """Return the mean in nats per token of the batches [B, T] of ``window_losses``."""
    return float(_mean_over_windows(losses).mean())


def _mean_over_windows(losses: Iterable[Tensor]) -> Tensor:
    """Return the mean [T] of batches [B, T]."""
    total, count = torch.zeros(()), 0
    for batch in losses:
        total = total + batch.sum(0)
        count += batch.shape[0]
    return total / count
