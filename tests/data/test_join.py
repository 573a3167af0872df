"""``data.join``: the documents of a split as one stream, and the share of the text that windows read."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.config.identity import identity, run_id
from ttt.config.schema import DataConfig, TrainConfig
from ttt.data.corpus import Documents, load_corpus
from ttt.data.inspect import describe_corpus
from ttt.data.loader import TrainLoader
from ttt.data.usage import Usage, describe_judged, describe_usage, documents_in, usage
from ttt.data.vocabulary import open_vocabulary
from ttt.data.windows import describe_windows, windows_within

Make = Callable[[list[int]], Documents]

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def joined(documents: Documents) -> Documents:
    return replace(documents, joined=True)


@given(lengths=LENGTHS, ctx=st.integers(1, 12))
def test_joined_windows_are_consecutive_parts_of_the_stream(make_documents: Make, lengths: list[int], ctx: int) -> None:
    documents = joined(make_documents([*lengths, ctx + 1]))
    total = len(documents.tokens)
    windows = windows_within(documents, ctx)
    rows = windows.batch(range(len(windows)))
    # As in the authors' code, where row i is tokens[i ctx : i ctx + ctx + 1].
    assert len(rows) == (total - 1) // ctx
    assert torch.equal(rows, torch.arange(len(rows))[:, None] * ctx + torch.arange(ctx + 1))


@given(lengths=LENGTHS, ctx=st.integers(1, 12), join=st.booleans())
def test_the_share_is_the_tokens_of_the_windows(make_documents: Make, lengths: list[int], ctx: int, join: bool) -> None:
    documents = replace(make_documents([*lengths, ctx + 1]), joined=join)
    windows = windows_within(documents, ctx)
    read = np.unique(windows.batch(range(len(windows))))
    owners = np.unique(np.repeat(np.arange(len(documents)), documents.lengths)[read])
    assert usage(documents, ctx) == Usage(len(owners), len(documents), len(read), len(documents.tokens))
    for part in (windows, windows.subset(3)):
        owners = np.repeat(np.arange(len(documents)), documents.lengths)[part.batch(range(len(part))).flatten()]
        assert documents_in(part, documents) == len(set(owners))


def test_one_line_with_the_share(make_documents: Make) -> None:
    documents = make_documents([5, 5, 70, 20])
    line = "data=made ctx=64: windows of the train text have 1 of 4 documents (25%), 65% of the tokens; "
    assert describe_usage(documents, 64).startswith(line)
    assert describe_usage(documents, 64).endswith("are left out, data.join=true joins them")
    line = "data=made ctx=9: windows of the train text have 4 of 4 documents (100%), 100% of the tokens, joined"
    assert describe_usage(joined(documents), 9) == line
    assert "0 of 4 documents (0%), 0% of the tokens" in describe_usage(documents, 4096)
    assert "99.9% of the tokens" in describe_usage(joined(make_documents([10_002])), 10)


def test_one_line_with_the_share_that_is_judged(make_documents: Make) -> None:
    documents = make_documents([5, 5, 70, 20])
    line = "judged: 1 of 4 documents (25%), 64 of 100 tokens (64%); the others are shorter than the context, or beyond "
    assert describe_judged(documents, 1, 64) == f"{line}data.eval_tokens"
    assert describe_judged(documents, 4, 96) == "judged: 4 of 4 documents (100%), 96 of 100 tokens (96%)"
    assert describe_judged(joined(documents), 4, 96).endswith("(96%), joined")


def test_the_noun_for_windows(make_documents: Make) -> None:
    assert describe_windows(make_documents([5]), "all") == "windows of all documents"
    assert describe_windows(joined(make_documents([5])), "train") == "windows of the joined train documents"


def test_joined_text_that_is_too_short(make_documents: Make) -> None:
    with pytest.raises(UserError, match=r"^ctx=8: no train document .* choose a shorter context or data\.join=true$"):
        windows_within(make_documents([4, 3]), 8)
    with pytest.raises(UserError, match=r"^ctx=8: the joined train documents of data=made have 7 tokens, not 9; "):
        windows_within(joined(make_documents([4, 3])), 8)
    with pytest.raises(UserError, match=r"^data=made: there is no train document; add text$"):
        windows_within(joined(make_documents([])), 8)
    with pytest.raises(IndexError):
        windows_within(joined(make_documents([9])), 4)[2]


def test_joined_batches_are_the_same_after_a_resumption(make_documents: Make) -> None:
    windows = windows_within(joined(make_documents([3, 1, 9, 4, 2, 8])), 2)
    whole = torch.stack(list(TrainLoader(windows, 3, 8, seed=1)))
    first = TrainLoader(windows, 3, 8, seed=1)
    before = list(islice(first, 5))
    resumed = TrainLoader(windows, 3, 8, seed=1)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(torch.stack([*before, *resumed]), whole)


def test_one_corpus_serves_both(config: DataConfig) -> None:
    apart = load_corpus(config, show_progress=False)
    both = load_corpus(replace(config, join=True), show_progress=False)
    assert (both.folder, both.digest) == (apart.folder, apart.digest)
    end = open_vocabulary(both.folder).end
    for split, documents in both.splits.items():
        windows = windows_within(documents, 16)
        stream = np.concatenate([windows.batch(range(len(windows)))[:, :-1].flatten()])
        assert stream.tolist() == documents.tokens[: len(stream)].tolist()
        # The end-of-document token is between documents.
        assert set(documents.tokens[:][documents.offsets[1:] - 1]) == {end}
        assert not apart.splits[split].joined
    shares, shares_apart = (
        re.findall(r"tokens used at 2k +(.*)", describe_corpus(corpus))[0].split() for corpus in (both, apart)
    )
    assert float(shares[0].rstrip("%")) > 80
    assert shares_apart == ["0.0%"] * 3


def test_the_identity_names_only_joined_data(configure: Callable[..., TrainConfig]) -> None:
    assert "join" not in identity(configure())["data"]
    assert run_id(configure("data.join=false")) == run_id(configure())
    assert run_id(configure("data.join=true")) != run_id(configure())
    for name in ("pile", "books"):
        assert identity(configure(f"data={name}"))["data"]["join"] is True
