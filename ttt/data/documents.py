"""The choice of documents for a corpus and its splits, which depends only on their text."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data.sources import Document

SPLITS = ("train", "validation", "test")

READ_FOR_SAMPLE = 2**28
"""Characters at the beginning of a source from which the tokenizer's training sample is chosen."""

MOST_CHARS_OF_A_TOKEN = 16
"""With ``data.max_tokens`` the sample is chosen from this many characters per token, more than what is used."""


@dataclass(frozen=True)
class Selection:
    """The choice of a source's documents for a corpus, and of their splits.

    Attributes:
        data: name of the corpus.
        min_chars: characters of the shortest document.
        max_chars: characters of the longest document.
        max_tokens: the source is read until it has this many tokens; None: all of it.
        validation_fraction: share of the validation split.
        test_fraction: share of the test split.
    """

    data: str
    min_chars: int
    max_chars: int
    max_tokens: int | None
    validation_fraction: float
    test_fraction: float

    @classmethod
    def of(cls, config: DataConfig) -> "Selection":
        """Return the choice that a configuration describes."""
        bounds = config.min_chars, config.max_chars, config.max_tokens
        return cls(config.name, *bounds, config.validation_fraction, config.test_fraction)

    @property
    def shares(self) -> dict[str, float]:
        """The share of each split that has one."""
        rest = 1 - self.validation_fraction - self.test_fraction
        shares = zip(SPLITS, (rest, self.validation_fraction, self.test_fraction), strict=True)
        return {split: round(share, 9) for split, share in shares if share}

    def admits(self, document: Document) -> bool:
        """Check that a document has ``data.min_chars`` to ``data.max_chars`` characters."""
        return self.min_chars <= len(document.text) <= self.max_chars

    def split_by_hash(self, sha256: bytes) -> str:
        """Return the split of a whole document from its hash."""
        return split_of(sha256, self.validation_fraction, self.test_fraction)

    def training_sample(self, documents: Iterable[Document], chars: int) -> list[str]:
        """Return the training documents with the lowest hashes: at least ``chars`` characters, or all there are.

        At most the first ``READ_FOR_SAMPLE`` characters are read, and a few times ``chars`` kept in memory.

        Raises:
            UserError: there is no training document.
        """
        chosen: dict[bytes, str] = {}
        chosen_chars = 0
        limit = min(READ_FOR_SAMPLE, MOST_CHARS_OF_A_TOKEN * (self.max_tokens or READ_FOR_SAMPLE))
        for document in _beginning(documents, limit):
            sha256 = sha256_of(document.text)
            train = (document.split or self.split_by_hash(sha256)) == "train"
            if train and self.admits(document) and sha256 not in chosen:
                chosen[sha256] = document.text
                chosen_chars += len(document.text)
            if chosen_chars > 4 * chars:
                chosen = _lowest(chosen, chars)
                chosen_chars = sum(map(len, chosen.values()))
        if not chosen:
            raise self.no_training_document()
        return list(_lowest(chosen, chars).values())

    def no_training_document(self) -> UserError:
        """Return the error for a source without any training document."""
        bounds = f"of {self.min_chars} to {self.max_chars} characters (data.min_chars, data.max_chars)"
        return UserError(f"data={self.data}: no training document {bounds}; widen them or add text")


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
