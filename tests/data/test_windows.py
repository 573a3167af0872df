"""Windows inside documents."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.data.corpus import Documents
from ttt.data.windows import StartsWithin, Windows, windows_within

Make = Callable[[list[int]], Documents]


def all_rows(windows: Windows) -> torch.Tensor:
    return windows.batch(range(len(windows)))


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), ctx=st.integers(1, 12))
def test_windows_give_every_token_back_in_order_and_once(make_documents: Make, lengths: list[int], ctx: int) -> None:
    documents = make_documents([*lengths, ctx + 1])
    windows = windows_within(documents, ctx)
    rows = iter(all_rows(windows))
    for start, length in zip(documents.offsets, documents.lengths, strict=False):
        predicted = [next(rows)[1:].tolist() for _ in range((length - 1) // ctx)]
        tokens = [token for row in predicted for token in row]
        # Only the remainder of fewer than ctx tokens is missing.
        assert tokens == list(range(start + 1, start + 1 + len(tokens)))
        assert length - 1 - len(tokens) < ctx
    assert next(rows, None) is None


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), ctx=st.integers(1, 12))
def test_windows_never_cross_documents(make_documents: Make, lengths: list[int], ctx: int) -> None:
    documents = make_documents([*lengths, ctx + 1])
    owner = np.repeat(np.arange(len(documents)), documents.lengths)
    for row in all_rows(windows_within(documents, ctx)):
        assert row.tolist() == list(range(int(row[0]), int(row[0]) + ctx + 1))
        assert len(set(owner[row.numpy()])) == 1


def test_batch(make_documents: Make) -> None:
    windows = windows_within(make_documents([9]), ctx=4)
    batch = windows.batch([1, 0])
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[4, 5, 6, 7, 8], [0, 1, 2, 3, 4]]
    with pytest.raises(IndexError):
        windows[2]


def test_subset_is_spread_out(make_documents: Make) -> None:
    windows = windows_within(make_documents([101]), ctx=1)
    assert all_rows(windows.subset(4))[:, 0].tolist() == [0, 25, 50, 75]
    assert len(windows.subset(1000)) == 100
    assert len(windows.subset(7)) == 7


def test_no_document_is_long_enough(make_documents: Make) -> None:
    with pytest.raises(UserError, match=r"^ctx=8: no train document of data=made has 9 tokens; the longest has 8; "):
        windows_within(make_documents([3, 8]), ctx=8)
    with pytest.raises(UserError, match=r"^data=made: there is no train document; add text$"):
        windows_within(make_documents([]), ctx=8)
    with pytest.raises(UserError, match=r"^ctx=0: "):
        windows_within(make_documents([3]), ctx=0)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=300), ctx=st.integers(1, 12))
def test_computed_starts_equal_listed_ones(lengths: list[int], ctx: int) -> None:
    lengths = [*lengths, ctx + 1]
    offsets = np.cumsum([0, *lengths])
    listed = [
        int(offset) + window * ctx
        for offset, length in zip(offsets, lengths, strict=False)
        for window in range((length - 1) // ctx)
    ]
    starts = StartsWithin(offsets, ctx)
    assert len(starts) == len(listed)
    assert starts[np.arange(len(listed))].tolist() == listed
