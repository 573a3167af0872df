"""Training and evaluation sequences: windows of ctx + 1 tokens, each inside one document or in the joined stream."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ttt.config.errors import UserError, bad_value
from ttt.data.answers import Answers
from ttt.data.corpus import Documents
from ttt.data.shards import TokenSequence

GROUP = 64
"""Documents per number kept in memory."""

BLOCK = 2**14 * GROUP
"""Documents processed at once when windows are counted."""


class Starts(Protocol):
    """The start of each window, int64: an array, or computed on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of ``ctx`` input tokens and the next token.

    Attributes:
        tokens: uint16 or uint32 [tokens] of all documents.
        starts: int64 [windows]; window i is ``tokens[starts[i] : starts[i] + ctx + 1]``.
        ctx: tokens that each window predicts.
        answers: the only predicted tokens that are trained and judged; None: all are.
    """

    tokens: TokenSequence
    starts: Starts
    ctx: int
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Return the windows with these indices: int64 [B, ctx + 1]."""
        starts = self.starts[np.asarray(indices)]
        ids_BS = np.empty((len(starts), self.ctx + 1), np.int64)
        for row, start in zip(ids_BS, starts, strict=True):
            row[:] = self.tokens[start : start + self.ctx + 1]
        return torch.from_numpy(ids_BS)

    def subset(self, n: int) -> "Windows":
        """Return at most ``n`` windows, always the same, evenly spaced so that they come from many documents."""
        n = min(n, len(self))
        return replace(self, starts=self.starts[np.arange(n) * len(self) // n])


def windows_within(documents: Documents, ctx: int) -> Windows:
    """Divide every document into windows from its start and drop the remainder at its end.

    Window j of a document consists of tokens ``j * ctx`` to ``j * ctx + ctx``, inclusive: neighbours share a token, so
    that each token except a document's first is predicted once. Joined documents are divided as one document, as in the
    authors' code (ttt-lm-jax, ``lm_dataset.py``): a window may span several documents, and the state is not reset
    between them.

    Raises:
        UserError: no document has ``ctx + 1`` tokens, or all of the joined ones have fewer; or documents with answers
            have another length.
    """
    if documents.answers is not None and ctx != documents.answers.length:
        raise sequences_differ(ctx, documents.data, documents.answers.length)
    starts = _starts(documents, ctx) if ctx > 0 else ()
    _check(documents, ctx, len(starts))
    return Windows(documents.tokens, starts, ctx, documents.answers)


def sequences_differ(ctx: int, data: str, length: int) -> UserError:
    """Return the error that the context is not the length of the sequences of ``data``, which are read whole."""
    return UserError(f"ctx.length={ctx}: the sequences of data={data} have {length} tokens; make data.length the same")


def describe_windows(documents: Documents, split: str) -> str:
    """Return a noun for the windows of ``windows_within``; ``split``: of the documents, or ``all`` for a whole text."""
    return f"windows of {'the joined ' if documents.joined else ''}{split} documents"


def _starts(documents: Documents, ctx: int) -> Starts:
    if documents.joined:
        return StartsEvery(max(0, len(documents.tokens) - 1) // ctx, ctx)
    return StartsWithin(documents.offsets, ctx)


@dataclass(frozen=True)
class StartsEvery:
    """``count`` starts at distances of ``ctx`` tokens."""

    count: int
    ctx: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        _check_indices(indices, self.count)
        return np.asarray(indices, np.int64) * self.ctx


class StartsWithin:
    """The starts of all windows of all documents, with one number in memory per ``GROUP`` documents.

    Args:
        offsets: int64 [documents + 1] of the documents.
        ctx: tokens between the starts of neighbouring windows.
    """

    def __init__(self, offsets: np.ndarray, ctx: int) -> None:
        self._offsets, self._ctx = offsets, ctx
        blocks = [offsets[first : first + BLOCK + 1] for first in range(0, len(offsets) - 1, BLOCK)]
        sums = [np.add.reduceat(counts, np.arange(0, len(counts), GROUP)) for counts in map(self._counts, blocks)]
        self._first = np.cumsum(np.concatenate([[0], *sums]))

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        _check_indices(indices, len(self))
        return np.array([self._start(index) for index in indices], np.int64)

    def _start(self, index: int) -> int:
        group = int(np.searchsorted(self._first, index, "right")) - 1
        offsets = self._offsets[group * GROUP : (group + 1) * GROUP + 1]
        ends = np.cumsum(self._counts(offsets))
        within = index - self._first[group]
        document = int(np.searchsorted(ends, within, "right"))
        before = ends[document - 1] if document else 0
        return int(offsets[document] + (within - before) * self._ctx)

    def _counts(self, offsets: np.ndarray) -> np.ndarray:
        return (np.diff(offsets) - 1) // self._ctx


def _check_indices(indices: np.ndarray, windows: int) -> None:
    if len(indices) and not 0 <= indices.min() <= indices.max() < windows:
        raise IndexError(f"window {indices.max()} of {windows}")


def _check(documents: Documents, ctx: int, windows: int) -> None:
    if ctx < 1:
        raise bad_value("ctx", ctx, "must be at least 1")
    if not windows:
        longest = len(documents.tokens) if documents.joined else documents.lengths.max(initial=0)
        if not longest:
            advice = f"add text, or raise data.{documents.split}_fraction" if documents.split != "train" else "add text"
            raise UserError(f"data={documents.data}: there is no {documents.split} document; {advice}")
        if documents.joined:
            joined = f"the joined {documents.split} documents of data={documents.data}"
            raise UserError(f"ctx={ctx}: {joined} have {longest} tokens, not {ctx + 1}; choose a shorter context")
        raise UserError(
            f"ctx={ctx}: no {documents.split} document of data={documents.data} has {ctx + 1} tokens; "
            f"the longest has {longest}; choose a shorter context or data.join=true"
        )
