"""The choice of windows whose last tokens are judged with more and less context."""

from dataclasses import replace

import numpy as np
import pytest

from ttt.config.errors import UserError
from ttt.data.corpus import Documents
from ttt.evaluate.targets import target_windows
from ttt.results.context_gain import TARGETS


def make_documents(lengths: list[int]) -> Documents:
    """Return documents of these lengths; every token is its position among all tokens."""
    offsets = np.cumsum([0, *lengths])
    return Documents("made", "train", np.arange(offsets[-1], dtype=np.uint32), offsets)


def test_windows_lie_in_long_documents_and_share_no_target() -> None:
    lengths = [2000, 513, 100, 512, 9000, 4000]
    documents = make_documents(lengths)
    windows = target_windows(documents, 512, 16)
    assert len(windows.ids) <= 16
    # 512 tokens give no next token.
    assert set(windows.document) == {0, 1, 4, 5}
    assert windows.ids.shape[1] == 513
    for ids, document in zip(windows.ids, windows.document, strict=True):
        # The tokens of ``make_documents`` are their positions.
        assert documents.offsets[document] <= ids[0]
        assert ids[-1] < documents.offsets[document + 1]
        assert (np.diff(ids) == 1).all()
    targets = windows.ids[:, -TARGETS:].ravel()
    assert len(np.unique(targets)) == len(targets)


def test_documents_and_positions_are_evenly_spread() -> None:
    documents = make_documents([10_000] * 40)
    few, many = target_windows(documents, 1024, 10), target_windows(documents, 1024, 200)
    assert few.document.tolist() == list(range(0, 40, 4))
    assert np.bincount(many.document).tolist() == [5] * 40
    for windows in (few, many):
        place = (windows.ids[:, 0] - documents.offsets[windows.document]) / (10_000 - 1024)
        assert 0 <= place.min() < 0.15
        assert 0.85 < place.max() < 1
        assert place.mean() == pytest.approx(0.5, abs=0.06)


def test_the_choice_depends_on_the_documents_alone() -> None:
    """Joined documents give the same windows; other windows have another digest."""
    documents = make_documents([3000, 5000])
    windows = target_windows(documents, 1024, 8)
    joined = target_windows(replace(documents, joined=True), 1024, 8)
    assert (windows.ids == joined.ids).all()
    assert windows.digest == joined.digest == "c451850c2e8b7562"
    assert target_windows(documents, 1024, 4).digest != windows.digest


def test_the_window_of_another_document_is_of_another_document() -> None:
    windows = target_windows(make_documents([5000, 1300, 9000]), 1024, 12)
    other = windows.of_another_document()
    assert (windows.document[other] != windows.document).all()
    with pytest.raises(ValueError, match="one document"):
        target_windows(make_documents([5000]), 1024, 12).of_another_document()


def test_no_document_is_long_enough() -> None:
    expected = r"^longest=1024: no train document of data=made has 1025 tokens; the longest has 1024; choose fewer$"
    with pytest.raises(UserError, match=expected):
        target_windows(make_documents([3, 1024]), 1024, 8)
    with pytest.raises(UserError, match=r"the longest has 0; choose fewer$"):
        target_windows(make_documents([]), 1024, 8)
