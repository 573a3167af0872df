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
        loss: mean in nats per token over windows from anywhere in the documents; of answers only, in data with
            answers (``ttt.data.answers``).
        tokens: number of tokens in ``loss``.
        sequences: number of windows in ``loss``.
        loss_by_index: [T], mean loss at token index 1 ... T of the windows; NaN where no window has an answer.
        windows_by_index: [T], the number of windows in each of these means.
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
    windows_by_index: Tensor
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
    loss_T, windows_T = _mean_over_windows(starmap(sums.add, predictions))
    read, tokens = np.flatnonzero(sums.tokens), int(sums.tokens.sum())
    return SplitEvaluation(
        float(loss_T.mean()) if windows.answers is None else float(sums.loss.sum()) / tokens,
        tokens,
        len(windows),
        loss_T,
        windows_T,
        documents_in(windows, documents),
        sums.starts,
        read,
        sums.loss[read],
        sums.tokens[read],
        sums.right / tokens,
    )


class _DocumentSums:
    """Sums of losses and counts of judged tokens by document, over batches of windows in their order.

    ``right`` counts the judged tokens that were the most likely ones.
    """

    def __init__(self, windows: Windows, documents: Documents) -> None:
        self.starts = np.asarray(windows.starts[np.arange(len(windows))])
        self.offsets = documents.offsets
        self.loss, self.tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
        self.right, self._done = 0, 0

    def add(self, losses_BT: Tensor, right_BT: Tensor, judged_BT: Tensor) -> Tensor:
        """Add the next windows, as ``window_predictions`` yields them; return the losses, NaN where none is judged."""
        B, T = losses_BT.shape
        places_BT = self.starts[self._done : self._done + B, None] + np.arange(1, T + 1)
        document = np.searchsorted(self.offsets, places_BT.ravel(), "right") - 1
        found, place = np.unique(document, return_inverse=True)
        self.loss[found] += np.bincount(place, (losses_BT * judged_BT).numpy().ravel())
        self.tokens[found] += np.bincount(place, judged_BT.numpy().ravel()).astype(np.int64)
        self.right += int((right_BT & judged_BT).sum())
        self._done += B
        return losses_BT.masked_fill(~judged_BT, math.nan)


def mean_loss(predictions: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Return the mean loss in nats per judged token of the batches of ``window_predictions``."""
    losses = (losses_BT.masked_fill(~judged_BT, math.nan) for losses_BT, _, judged_BT in predictions)
    loss_T, windows_T = _mean_over_windows(losses)
    if bool((windows_T == windows_T[0]).all()):
        return float(loss_T.mean())
    return float((loss_T * windows_T).nansum() / windows_T.sum())


def _mean_over_windows(losses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean [T] of batches [B, T] without their NaN, and the number of values in each mean [T]."""
    total, count = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for batch in losses:
        total = total + batch.nansum(0)
        count = count + (~batch.isnan()).sum(0)
    return total / count, count
