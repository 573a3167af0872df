"""The byte-level BPE."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ttt.config.plan import SMALLEST_VOCABULARY
from ttt.config.schema import DataConfig
from ttt.data import tokenizer as module
from ttt.data.sources import open_source
from ttt.data.token_bytes import TokenBytes
from ttt.data.tokenizer import (
    END_OF_DOCUMENT,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TEXTS = ["def forward(self, x):\n    return self.norm(x)\n"] * 20
TOKENIZER = train_tokenizer(TEXTS, 280)
BYTES_OF = TokenBytes(TOKENIZER)


def decode(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    return tokenizer.decode(tokens.tolist())


def test_training_is_deterministic(config: DataConfig) -> None:
    texts = [document.text for document in open_source(config).documents()]
    first, second = (train_tokenizer(texts, 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 300


def test_training_reads_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_tokenizer([" ab" * 10, " ab" * 20], 300).to_str()
    monkeypatch.setattr(module, "SAMPLE_CHARS", 90)
    assert train_tokenizer([" ab" * 10, " ab" * 30, " cd" * 100], 300).to_str() == whole


def test_save_and_load(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.to_str() == TOKENIZER.to_str()
    (expected,) = encode_documents(TOKENIZER, [f"a{END_OF_DOCUMENT}b"], 0)
    (actual,) = encode_documents(loaded, [f"a{END_OF_DOCUMENT}b"], 0)
    np.testing.assert_array_equal(actual, expected)


@given(st.lists(st.text() | st.just(END_OF_DOCUMENT), max_size=4))
def test_every_text_comes_back(texts: list[str]) -> None:
    for text, tokens in zip(texts, encode_documents(TOKENIZER, texts, 0), strict=True):
        assert tokens.dtype == np.int64
        assert decode(TOKENIZER, tokens[:-1]) == text
        assert b"".join(BYTES_OF(token) for token in tokens[:-1]) == text.encode()


def test_every_byte_has_its_token() -> None:
    single = {BYTES_OF(token) for token in range(1, SMALLEST_VOCABULARY)}
    assert single == {bytes([byte]) for byte in range(256)}


def test_the_end_of_a_document_is_its_last_token_only() -> None:
    end = TOKENIZER.token_to_id(END_OF_DOCUMENT)
    (tokens,) = encode_documents(TOKENIZER, [f"before {END_OF_DOCUMENT} after"], end)
    assert (tokens == end).nonzero()[0].tolist() == [len(tokens) - 1]
