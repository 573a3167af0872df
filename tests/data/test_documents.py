"""Which documents there are, and their splits."""

import hashlib

import pytest

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data.documents import select_documents, split_of
from ttt.data.sources import Document, find_source


def test_duplicates_are_dropped_whatever_the_order(config: DataConfig) -> None:
    documents = list(find_source("pycode").documents(config))
    selected = select_documents(documents, config)
    assert selected == select_documents(reversed(documents), config)
    assert len({document.sha256 for document in selected}) == len(selected) == 60
    names = [document.name for document in selected]
    assert "tinycode/copy.py" in names
    assert "tinycode/inner/module_00.py" not in names


def test_hash_is_that_of_the_text(config: DataConfig) -> None:
    for document in select_documents(find_source("pycode").documents(config), config):
        assert document.sha256 == hashlib.sha256(document.text.encode()).hexdigest()


def test_lengths_are_bounded_inclusively(config: DataConfig) -> None:
    config.min_chars, config.max_chars = 3, 4
    config.validation_fraction = config.test_fraction = 0.0
    texts = ["aa", "aaa", "éééé", "aaaaa"]
    selected = select_documents([Document(text, text) for text in texts], config)
    assert {document.name for document in selected} == {"aaa", "éééé"}


def test_split_depends_on_the_text_alone(config: DataConfig) -> None:
    documents = list(find_source("pycode").documents(config))
    whole = {d.sha256: d.split for d in select_documents(documents, config)}
    half = {d.sha256: d.split for d in select_documents(documents[::2], config)}
    assert half.items() <= whole.items()


def test_fractions_are_kept() -> None:
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(10_000)]
    splits = [split_of(sha256, 0.2, 0.1) for sha256 in hashes]
    assert splits.count("validation") == pytest.approx(2000, abs=150)
    assert splits.count("test") == pytest.approx(1000, abs=150)


def test_no_training_document(config: DataConfig) -> None:
    config.min_chars = config.max_chars = 99_999
    with pytest.raises(UserError, match=r"^data\.packages=\['tinycode'\]: no training document .*data\.min_chars"):
        select_documents(find_source("pycode").documents(config), config)
