"""The choice of documents for a corpus and its splits, which depends only on their text."""

import hashlib
from collections.abc import Iterable, Iterator

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data.sources import Document

SPLITS = ("train", "validation", "test")

READ_FOR_SAMPLE = 2**28
"""Characters at the beginning of a source from which the tokenizer's training sample is chosen."""

MOST_CHARS_OF_A_TOKEN = 16
"""With ``data.max_tokens`` the sample is chosen from this many characters per token, more than what is used."""


def is_admitted(document: Document, config: DataConfig) -> bool:
    """Check that a document has ``data.min_chars`` to ``data.max_chars`` characters."""
    return config.min_chars <= len(document.text) <= config.max_chars


def sha256_of(text: str) -> bytes:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).digest()


def split_of(sha256: bytes, validation_fraction: float, test_fraction: float) -> str:
    """Return the split of a document from its hash: the lowest hashes are validation, the next test, the rest train."""
    share = int.from_bytes(sha256[:8], "big") / 2**64
    if share < validation_fraction:
        return "validation"
    if share < validation_fraction + test_fraction:
        return "test"
    return "train"


def split_of_document(document: Document, sha256: bytes, config: DataConfig) -> str:
    """Return the split of a stretch, or the split of a whole document from its hash."""
    return document.split or split_of(sha256, config.validation_fraction, config.test_fraction)


def training_sample(documents: Iterable[Document], config: DataConfig, chars: int) -> list[str]:
    """Return the training documents with the lowest hashes: at least ``chars`` characters, or all if there are fewer.

    At most the first ``READ_FOR_SAMPLE`` characters are read, and a few times ``chars`` kept in memory.
    """
    chosen: dict[bytes, str] = {}
    chosen_chars = 0
    limit = min(READ_FOR_SAMPLE, MOST_CHARS_OF_A_TOKEN * (config.max_tokens or READ_FOR_SAMPLE))
    for document in _beginning(documents, limit):
        sha256 = sha256_of(document.text)
        train = split_of_document(document, sha256, config) == "train"
        if train and is_admitted(document, config) and sha256 not in chosen:
            chosen[sha256] = document.text
            chosen_chars += len(document.text)
        if chosen_chars > 4 * chars:
            chosen = _lowest(chosen, chars)
            chosen_chars = sum(map(len, chosen.values()))
    return list(_lowest(chosen, chars).values())


def no_training_document(config: DataConfig) -> UserError:
    """Return the error for a source without any training document."""
    bounds = f"of {config.min_chars} to {config.max_chars} characters (data.min_chars, data.max_chars)"
    return UserError(f"data={config.name}: no training document {bounds}; widen them or add text")


def _beginning(documents: Iterable[Document], chars: int) -> Iterator[Document]:
    read = 0
    for document in documents:
        yield document
        read += len(document.text)
        if read >= chars:
            return


def _lowest(texts: dict[bytes, str], chars: int) -> dict[bytes, str]:
    lowest: dict[bytes, str] = {}
    lowest_chars = 0
    for sha256 in sorted(texts):
        if lowest_chars >= chars:
            break
        lowest[sha256] = texts[sha256]
        lowest_chars += len(texts[sha256])
    return lowest
