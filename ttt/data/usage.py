"""The part of a corpus that windows of a context length read."""

from dataclasses import dataclass

import numpy as np

from ttt.data.corpus import Documents
from ttt.data.windows import BLOCK, Windows


@dataclass(frozen=True)
class Usage:
    """Documents and tokens of a split that are in windows, and all of them; the rest is left out."""

    documents: int
    of_documents: int
    tokens: int
    of_tokens: int

    def __str__(self) -> str:
        documents, tokens = _share(self.documents, self.of_documents), _share(self.tokens, self.of_tokens)
        return f"{self.documents:,} of {self.of_documents:,} documents ({documents}), {tokens} of the tokens"


def usage(documents: Documents, ctx: int) -> Usage:
    """Return the part of a split that ``windows_within`` reads at a context of ``ctx`` tokens."""
    all_tokens = len(documents.tokens)
    if documents.joined:
        windows = max(0, all_tokens - 1) // ctx
        read = windows * ctx + 1 if windows else 0
        used = int(np.searchsorted(documents.offsets[:-1], read))
        return Usage(used, len(documents), read, all_tokens)
    used = read = 0
    for first in range(0, len(documents), BLOCK):
        windows_of_each = (np.diff(documents.offsets[first : first + BLOCK + 1]) - 1) // ctx
        long_enough = np.count_nonzero(windows_of_each)
        used += int(long_enough)
        read += int(windows_of_each.sum()) * ctx + int(long_enough)
    return Usage(used, len(documents), read, all_tokens)


def describe_usage(documents: Documents, ctx: int) -> str:
    """Return one line with the share of a split that is read at a context of ``ctx`` tokens."""
    found = usage(documents, ctx)
    head = f"data={documents.data} ctx={ctx}: windows of the {documents.split} text have {found}"
    if documents.joined:
        return f"{head}, joined"
    if found.tokens == found.of_tokens:
        return head
    return f"{head}; shorter documents and the ends of others are left out, data.join=true joins them"


def describe_judged(documents: Documents, judged: int, tokens: int) -> str:
    """Return one line with the share of a split that an evaluation has judged: documents, and tokens with a loss."""
    of_documents, of_tokens = len(documents), len(documents.tokens)
    head = f"{judged:,} of {of_documents:,} documents ({_share(judged, of_documents)})"
    line = f"judged: {head}, {tokens:,} of {of_tokens:,} tokens ({_share(tokens, of_tokens)})"
    if documents.joined:
        return f"{line}, joined"
    left_out = "; the others are shorter than the context, or beyond data.eval_tokens"
    return line if judged == of_documents else line + left_out


def documents_in(windows: Windows, documents: Documents) -> int:
    """Return the number of documents with a token in ``windows``, whose starts ascend."""
    starts = np.asarray(windows.starts[np.arange(len(windows))])
    first = np.searchsorted(documents.offsets, starts, "right")
    last = np.searchsorted(documents.offsets, starts + windows.ctx, "right")
    # Neighbours may share a document.
    before = np.concatenate([[0], last[:-1]])
    return int((last - np.maximum(first, before + 1) + 1).sum())


def _share(part: int, whole: int) -> str:
    """Return a percentage; 100% only if nothing is left out."""
    share = f"{part / max(1, whole):.1%}".replace(".0%", "%")
    return "99.9%" if share == "100%" and part < whole else share
