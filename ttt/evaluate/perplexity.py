"""Perplexity on a split, and the loss by token index, on the same windows.

Shapes: B windows at once, T context length, D documents.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import torch
from torch import Tensor, nn

from ttt.data.corpus import Documents
from ttt.data.usage import documents_in
from ttt.data.windows import Windows, windows_within
from ttt.evaluate.losses import window_predictions


@dataclass(frozen=True)
class SplitEvaluation:
    """The result of a model on a split.

    Attributes:
        loss: mean in nats per token over windows from anywhere in the documents.
        tokens: number of tokens in ``loss``.
        sequences: number of windows in ``loss``.
        loss_by_index: [T], mean loss at token index 1 ... T of the windows.
        judged: number of documents with tokens in ``loss``.
        starts: int64 [windows], the place of each window in the split's tokens.
        document: int64 [D], numbers of the documents with predicted tokens.
        document_loss: float64 [D], the sum of their losses in nats.
        document_tokens: int64 [D], the number of these tokens.
        accuracy: share of the tokens in ``loss`` that were the most likely ones.
        text_bytes: bytes of text of the tokens in ``loss``; 0: not counted.
    """

    loss: float
    tokens: int
    sequences: int
    loss_by_index: Tensor
    judged: int
    starts: np.ndarray
    document: np.ndarray
    document_loss: np.ndarray
    document_tokens: np.ndarray
    accuracy: float
    text_bytes: int = 0

    @property
    def bits_per_byte(self) -> float | None:
        """The loss in bits per byte of text, which compares across tokenizers; None if no bytes were counted."""
        return self.loss * self.tokens / math.log(2) / self.text_bytes if self.text_bytes else None

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
    sums = _DocumentSums(windows, documents)
    predictions = window_predictions(model, windows, device, device_tokens, show_progress, "perplexity")
    loss_T = _mean_over_windows(starmap(sums.add, predictions))
    read = np.flatnonzero(sums.tokens)
    return SplitEvaluation(
        float(loss_T.mean()),
        len(windows) * ctx,
        len(windows),
        loss_T,
        documents_in(windows, documents),
        sums.starts,
        read,
        sums.loss[read],
        sums.tokens[read],
        sums.right / (len(windows) * ctx),
    )


class _DocumentSums:
    """Sums of losses and counts of predicted tokens by document, over batches of windows in their order.

    ``right`` counts the tokens that were the most likely ones.
    """

    def __init__(self, windows: Windows, documents: Documents) -> None:
        self.starts = np.asarray(windows.starts[np.arange(len(windows))])
        self.offsets = documents.offsets
        self.loss, self.tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
        self.right, self._done = 0, 0

    def add(self, losses_BT: Tensor, right_BT: Tensor) -> Tensor:
        """Add the next windows, with whether the most likely token was the right one; return their losses."""
        B, T = losses_BT.shape
        places_BT = self.starts[self._done : self._done + B, None] + np.arange(1, T + 1)
        document = np.searchsorted(self.offsets, places_BT.ravel(), "right") - 1
        found, place = np.unique(document, return_inverse=True)
        self.loss[found] += np.bincount(place, losses_BT.numpy().ravel())
        self.tokens[found] += np.bincount(place)
        self.right += int(right_BT.sum())
        self._done += B
        return losses_BT


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
