"""Perplexity on a split, and the loss by token index, on the same windows.

Shapes: T context length.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt.data.corpus import Documents
from ttt.data.usage import documents_in
from ttt.data.windows import windows_within
from ttt.evaluate.losses import window_losses


@dataclass(frozen=True)
class SplitEvaluation:
    """The result of a model on a split.

    Attributes:
        loss: mean in nats per token over windows from anywhere in the documents.
        tokens: number of tokens in ``loss``.
        sequences: number of windows in ``loss``.
        loss_by_index: [T], mean loss at token index 1 ... T of the windows.
        judged: number of documents with tokens in ``loss``.
    """

    loss: float
    tokens: int
    sequences: int
    loss_by_index: Tensor
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
    """Evaluate a model on windows of at most ``eval_tokens`` tokens, at least one.

    Windows begin anywhere in the documents, so that the loss by token index tells the use of t tokens of context and
    not the difference between the start of a document and its end. Joined documents (``data.join``) are read in windows
    of the stream, as the authors chunk it.

    Raises:
        UserError: no document is longer than the context.
    """
    windows = windows_within(documents, ctx).subset(max(1, eval_tokens // ctx))
    loss_T = _mean_over_windows(window_losses(model, windows, device, device_tokens, show_progress, "perplexity"))
    return SplitEvaluation(
        float(loss_T.mean()), len(windows) * ctx, len(windows), loss_T, documents_in(windows, documents)
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
