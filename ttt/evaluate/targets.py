"""Windows whose last tokens are judged with more and less context before them.

Only the documents decide which windows are chosen, so that runs of any context are judged on the same tokens.

Shapes: N windows, S = longest + 1 tokens of a window.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from ttt.config.errors import UserError
from ttt.data.corpus import Documents
from ttt.data.windows import Windows
from ttt.results.context_gain import TARGETS

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of the golden ratio modulo 1 spread the first windows of documents evenly over their documents."""


@dataclass(frozen=True, eq=False)
class TargetWindows:
    """Windows of ``longest`` input tokens and the next token, each inside one document.

    Attributes:
        ids: int64 [N, S] tokens; the targets are the last ``TARGETS`` of each row.
        document: int64 [N], the number in the split of each window's document; windows of a document are adjacent.
    """

    ids: np.ndarray
    document: np.ndarray

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 over all tokens: equal windows have equal digests."""
        return hashlib.sha256(self.ids.astype("<i8").tobytes()).hexdigest()[:16]

    def of_another_document(self) -> np.ndarray:
        """Return for each window the number of a window of another document, int64 [N].

        The other document is half the documents away: neighbours may be of one package or author.

        Raises:
            ValueError: all windows are of one document.
        """
        documents, first, counts = np.unique(self.document, return_index=True, return_counts=True)
        if len(documents) < 2:
            raise ValueError("the windows are of one document")
        place = np.searchsorted(documents, self.document)
        other = (place + len(documents) // 2) % len(documents)
        within = np.arange(len(self.document)) - first[place]
        return first[other] + within % counts[other]


def target_windows(documents: Documents, longest: int, most: int) -> TargetWindows:
    """Choose at most ``most`` windows of documents with more than ``longest`` tokens, also where documents are joined.

    Documents get equally many windows, as far as the targets of a document do not overlap; if there are more documents
    than windows, evenly spaced documents get one each. Windows are evenly spaced within a document, the first at
    another share of its length in each.

    Args:
        documents: the documents of a split.
        longest: input tokens of a window, at least ``TARGETS``.
        most: maximum number of windows, at least 1.

    Raises:
        UserError: no document is long enough.
    """
    lengths = documents.lengths
    long = np.flatnonzero(lengths > longest)
    if not len(long):
        raise UserError(
            f"longest={longest}: no {documents.split} document of data={documents.data} has {longest + 1} tokens; "
            f"the longest has {lengths.max(initial=0)}; choose fewer"
        )
    if len(long) > most:
        long = long[np.arange(most) * len(long) // most]
    room = lengths[long] - longest
    counts = _equal_counts(np.maximum(1, room // TARGETS), most)
    starts = [
        documents.offsets[document] + (np.arange(count) + share) * space / count
        for document, count, space, share in zip(
            long, counts, room, np.arange(1, len(long) + 1) * GOLDEN % 1, strict=True
        )
    ]
    windows = Windows(documents.tokens, np.floor(np.concatenate(starts)).astype(np.int64), longest)
    return TargetWindows(windows.batch(range(len(windows))).numpy(), np.repeat(long, counts))


def _equal_counts(most_of_each: np.ndarray, most: int) -> np.ndarray:
    """Return the largest equal counts, cut off at ``most_of_each``, whose sum is at most ``most``."""
    count = 1
    while count < most_of_each.max() and np.minimum(most_of_each, count + 1).sum() <= most:
        count += 1
    return np.minimum(most_of_each, count)
