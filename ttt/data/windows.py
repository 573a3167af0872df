"""Training and evaluation sequences: stretches of ctx + 1 tokens that lie inside one document."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ttt.config.errors import UserError, bad_value
from ttt.data.corpus import Documents


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of ``ctx`` input tokens and the token after them.

    Attributes:
        tokens: uint16 or uint32 [tokens] of all documents.
        starts: int64 [windows]; window i is ``tokens[starts[i] : starts[i] + ctx + 1]``.
        ctx: tokens that each window predicts.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ctx: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The windows of these indices: int64 [B, ctx + 1]."""
        rows = [self.tokens[start : start + self.ctx + 1] for start in self.starts[indices]]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def subset(self, n: int) -> "Windows":
        """At most ``n`` windows, always the same, at even distances so that they come from many documents."""
        n = min(n, len(self))
        return replace(self, starts=self.starts[np.arange(n) * len(self) // n])


def windows_within(documents: Documents, ctx: int) -> Windows:
    """Every document cut into windows from its start; what is left at its end is dropped.

    Window j of a document holds its tokens ``j * ctx`` to ``j * ctx + ctx``, the last one included: neighbours share
    a token, so that each token but a document's first is predicted once.

    Raises:
        UserError: no document is ``ctx + 1`` tokens long.
    """
    _check(documents, ctx)
    counts = (documents.lengths - 1) // ctx
    first = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(first, counts)
    return Windows(documents.tokens, np.repeat(documents.offsets[:-1], counts) + within * ctx, ctx)


def windows_at_start(documents: Documents, ctx: int) -> Windows:
    """The first window of every document that has one.

    Raises:
        UserError: no document is ``ctx + 1`` tokens long.
    """
    _check(documents, ctx)
    return Windows(documents.tokens, documents.offsets[:-1][documents.lengths > ctx], ctx)


def _check(documents: Documents, ctx: int) -> None:
    if ctx < 1:
        raise bad_value("ctx", ctx, "must be at least 1")
    longest = max(documents.lengths, default=0)
    if longest <= ctx:
        raise UserError(
            f"ctx={ctx}: no {documents.split} document of data={documents.data} has {ctx + 1} tokens; "
            f"the longest has {longest}; choose a shorter context"
        )
