"""Tokenizers of every kind."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data.corpus import load_corpus
from ttt.data.tokenizer import save_tokenizer, train_tokenizer
from ttt.data.vocabulary import decode, open_vocabulary
from ttt.data.words import WordEncoder

CODE = [
    "def forward(self, x):\n    return self.norm(x)\n\n\n# it's 3.14 more  \t words\r\n",
    "été über 漢字 ½ _a_b__ 'll",
]
TOKENIZER = train_tokenizer(CODE * 20, 400)
WORDS = WordEncoder(TOKENIZER)
PIECES = [" ", "  ", "\n", "\t", "\r\n", "\x1c", "\x85", "\xa0", "\u3000", "'s", "'", "don't", "_", "é", "漢", "1", "½"]


@given(
    st.text() | st.lists(st.sampled_from([*PIECES, "word", "X", ".", "(", "'ll", "\0", "<|endoftext|>"])).map("".join)
)
def test_encoding_by_words_gives_the_librarys_tokens(text: str) -> None:
    assert WORDS.encode(text) == TOKENIZER.encode(text, add_special_tokens=False).ids


def test_words_are_forgotten_before_they_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt.data.words.REMEMBERED", 3)
    encoder = WordEncoder(TOKENIZER)
    for text in CODE * 2:
        assert encoder.encode(text) == TOKENIZER.encode(text).ids
    assert len(encoder._known) < 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Train a tiny sentencepiece model of Llama-2's kind."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 100),
        model_writer=written,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    return tmp_path / "tokenizer.model"


def test_sentencepiece(model: Path) -> None:
    vocabulary = open_vocabulary(model.parent)
    text = "the quick é fox\n  漢"
    (tokens,) = vocabulary.encode([text])
    assert tokens.dtype == np.uint16
    assert tokens[-1] == vocabulary.end
    assert decode(vocabulary, tokens[:-1]) == f" {text}"


@pytest.fixture
def local_config(tmp_path: Path) -> DataConfig:
    (tmp_path / "texts").mkdir()
    for number in range(10):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"the quick brown fox {number}")
    return DataConfig(
        "mine", "local", path=str(tmp_path / "texts"), min_chars=1, max_chars=100, cache_dir=str(tmp_path / "cache")
    )


def test_a_corpus_with_the_users_model(local_config: DataConfig, model: Path) -> None:
    local_config.tokenizer = str(model)
    corpus = load_corpus(local_config, show_progress=False)
    assert (corpus.folder / "tokenizer.model").read_bytes() == model.read_bytes()
    assert corpus.vocab_size == sentencepiece.SentencePieceProcessor(model_file=str(model)).vocab_size()
    assert len(corpus.splits["train"]) == 10


def test_a_corpus_with_the_users_json(local_config: DataConfig, tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path / "mine.json")
    local_config.tokenizer = str(tmp_path / "mine.json")
    first = load_corpus(local_config, show_progress=False)
    assert first.vocab_size == TOKENIZER.get_vocab_size()
    save_tokenizer(train_tokenizer(CODE, 300), tmp_path / "mine.json")
    second = load_corpus(local_config, show_progress=False)
    assert second.folder != first.folder
    assert second.vocab_size == 300


def test_a_json_that_does_not_split_as_gpt2(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tokens,) = open_vocabulary(tmp_path).encode(["a b c"])
    assert tokens.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("tokenizer.json", "{", "cannot be used"),
        (
            "tokenizer.json",
            '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "a"}}',
            "no token",
        ),
        ("tokenizer.model", "no model", "cannot be used"),
        ("tokenizer.txt", "", r"give a tokenizer\.json"),
        ("missing.json", None, "no such file"),
    ],
)
def test_a_file_that_is_no_tokenizer(
    local_config: DataConfig, tmp_path: Path, name: str, content: str | None, line: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    local_config.tokenizer = str(path)
    with pytest.raises(UserError, match=rf"^data\.tokenizer={path}: .*{line}") as caught:
        load_corpus(local_config, show_progress=False)
    assert "\n" not in str(caught.value)
    cache = tmp_path / "cache"
    assert not cache.exists() or not [folder for folder in cache.iterdir() if folder.is_dir()]
