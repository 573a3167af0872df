"""Encoding and decoding of text with the trained BPE, a ``tokenizer.json``, or a ``tokenizer.model``."""

import json
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from sentencepiece import SentencePieceProcessor

from ttt.config.errors import UserError, bad_value, first_line
from ttt.config.system import file_sha256
from ttt.data.token_bytes import TokenBytes, piece_bytes
from ttt.data.tokenizer import END_OF_DOCUMENT, encode_documents, load_tokenizer
from ttt.data.words import WordEncoder

JSON, MODEL = "tokenizer.json", "tokenizer.model"
END_TOKENS = (END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>")
"""Names that public tokenizers use for the end-of-document token."""


class Vocabulary(Protocol):
    """The tokens of a tokenizer.

    Attributes:
        size: the largest id + 1; some ids may have no token.
        end: the end-of-document token.
    """

    size: int
    end: int

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Return the tokens of each text followed by ``end``, each of ``dtype_of(self)`` [tokens]."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token; one character may be split over several tokens."""
        ...

    def name_of(self, token: int) -> str:
        """Return the name of a token in the tokenizer's file."""
        ...


class JSONVocabulary:
    """A ``tokenizer.json`` of the library ``tokenizers``; special tokens in a text are encoded as plain text."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = load_tokenizer(path)
        self.size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        ends = [self._tokenizer.token_to_id(name) for name in END_TOKENS]
        known = [end for end in ends if end is not None]
        if not known:
            raise ValueError(f"it has no token that ends a document ({', '.join(END_TOKENS)})")
        self.end = known[0]
        settings = json.loads(self._tokenizer.to_str())
        self._token_bytes = TokenBytes(self._tokenizer)
        self._words = WordEncoder(self._tokenizer) if _splits_as_gpt2(settings) else None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """See ``Vocabulary``."""
        if self._words is None:
            return [tokens.astype(dtype_of(self)) for tokens in encode_documents(self._tokenizer, texts, self.end)]
        return [np.array([*self._words.encode(text), self.end], dtype_of(self)) for text in texts]

    def bytes_of(self, token: int) -> bytes:
        """See ``Vocabulary``."""
        return self._token_bytes(token)

    def name_of(self, token: int) -> str:
        """See ``Vocabulary``."""
        return str(self._tokenizer.id_to_token(token))


class SentencePieceVocabulary:
    """A ``tokenizer.model`` of sentencepiece, such as Llama-2's. It may normalise texts."""

    def __init__(self, path: Path) -> None:
        self._processor = SentencePieceProcessor(model_file=str(path))
        self.size, self.end = self._processor.vocab_size(), self._processor.eos_id()
        if self.end < 0:
            raise ValueError("it has no token that ends a document (eos)")

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """See ``Vocabulary``."""
        encoded = self._processor.encode(texts, out_type=int)
        return [np.array([*tokens, self.end], dtype_of(self)) for tokens in encoded]

    def bytes_of(self, token: int) -> bytes:
        """See ``Vocabulary``."""
        return piece_bytes(self._processor.id_to_piece(token), byte_fallback=self._processor.is_byte(token))

    def name_of(self, token: int) -> str:
        """See ``Vocabulary``."""
        return str(self._processor.id_to_piece(token))


@cache
def open_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary of the tokenizer file in ``folder``.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    path = tokenizer_file(folder)
    try:
        return SentencePieceVocabulary(path) if path.name == MODEL else JSONVocabulary(path)
    except OSError:
        raise
    except Exception as error:
        # Both libraries raise plain exceptions for a file of another format.
        raise ValueError(f"{path.name}: {first_line(error)}") from error


def tokenizer_file(folder: Path) -> Path:
    """Return the path of ``tokenizer.model`` if it exists, else of ``tokenizer.json``."""
    return folder / MODEL if (folder / MODEL).exists() else folder / JSON


def check_tokenizer(path: Path, key: str = "data.tokenizer") -> str:
    """Return the file name of a user's tokenizer in a prepared corpus or a run; ``key`` named it.

    Raises:
        UserError: the file is missing or of another kind.
    """
    ending = path.suffix.lower()
    if ending not in (".json", ".model"):
        raise bad_value(key, path, "give a tokenizer.json, or a tokenizer.model of sentencepiece")
    if not path.is_file():
        raise bad_value(key, path, "no such file")
    return JSON if ending == ".json" else MODEL


def tokenizer_version(path: Path) -> dict[str, str]:
    """Return the name of a user's tokenizer in a corpus -> its SHA-256 and the settings that earlier versions used.

    Corpora that earlier versions prepared with padding, truncation, dropout or too small a size are not used again.

    Raises:
        UserError: the file is missing or of another kind.
    """
    name, sha256 = check_tokenizer(path), file_sha256(path)
    try:
        settings = json.loads(path.read_bytes()) if path.suffix.lower() == ".json" else {}
        tokenizer = load_tokenizer(path) if settings else None
    except Exception:
        return {name: sha256}
    stored = [name for name in ("padding", "truncation") if settings.get(name)]
    stored += ["dropout"] if settings and settings["model"].get("dropout") else []
    without = f" without {', '.join(stored)}" if stored else ""
    sparse = tokenizer and max(tokenizer.get_vocab().values(), default=-1) + 1 != tokenizer.get_vocab_size()
    return {name: f"{sha256}{without}{' with gaps between ids' if sparse else ''}"}


def open_users(path: Path, folder: Path, key: str = "data.tokenizer") -> Vocabulary:
    """Return the vocabulary of ``folder``, whose tokenizer is a copy of the user's file ``path``, which ``key`` named.

    Raises:
        UserError: it is not a tokenizer.
    """
    try:
        return open_vocabulary(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path}: cannot be used ({first_line(error)}); give another file") from error


def dtype_of(vocabulary: Vocabulary) -> np.dtype:
    """Return the smallest unsigned type that holds every token."""
    return np.dtype(np.uint16 if vocabulary.size <= 2**16 else np.uint32)


def decode(vocabulary: Vocabulary, tokens: np.ndarray) -> str:
    """Return the text of tokens; incomplete characters become U+FFFD."""
    return b"".join(vocabulary.bytes_of(int(token)) for token in tokens).decode("utf-8", errors="replace")


def _splits_as_gpt2(settings: dict) -> bool:
    """Check that the tokenizer splits text as ``WordEncoder`` does."""
    splitter = settings["pre_tokenizer"] or {}
    options = [splitter.get(key) for key in ("type", "use_regex", "add_prefix_space")]
    special_only = all(token["special"] for token in settings["added_tokens"])
    return options == ["ByteLevel", True, False] and settings["normalizer"] is None and special_only
