"""The choice of documents, and their splits."""

import hashlib
import random

import pytest

from ttt.config.schema import DataConfig
from ttt.data import documents
from ttt.data.documents import Selection, sha256_of, split_of
from ttt.data.sources import Document, open_source


def test_hash_is_that_of_the_text() -> None:
    assert sha256_of("é").hex() == hashlib.sha256("é".encode()).hexdigest()


def test_lengths_are_bounded_inclusively(config: DataConfig) -> None:
    config.min_chars, config.max_chars = 3, 4
    texts = ["aa", "aaa", "éééé", "aaaaa"]
    assert [text for text in texts if Selection.of(config).admits(Document(text, text))] == ["aaa", "éééé"]


def test_fractions_are_kept() -> None:
    splits = [split_of(sha256_of(str(i)), 0.2, 0.1) for i in range(10_000)]
    assert splits.count("validation") == pytest.approx(2000, abs=150)
    assert splits.count("test") == pytest.approx(1000, abs=150)


@pytest.mark.parametrize("chars", [1, 3000, 10**9])
def test_the_sample_is_the_training_documents_of_lowest_hash(config: DataConfig, chars: int) -> None:
    found = list(open_source(config).documents())
    selection = Selection.of(config)
    sample = selection.training_sample(found, chars)
    random.Random(0).shuffle(found)
    assert sample == selection.training_sample(found, chars)
    distinct = {sha256_of(document.text): document.text for document in found if selection.admits(document)}
    train = [text for sha256, text in sorted(distinct.items()) if split_of(sha256, 0.2, 0.1) == "train"]
    assert sample == train[: len(sample)]
    assert len(sample) == len(train) or sum(map(len, sample)) >= chars > sum(map(len, sample[:-1]))


def test_the_sample_is_from_the_beginning(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_FOR_SAMPLE", 5000)
    read = []

    def found() -> object:
        for document in open_source(config).documents():
            read.append(len(document.text))
            yield document

    Selection.of(config).training_sample(found(), 10**9)
    assert 5000 <= sum(read) < 8000
