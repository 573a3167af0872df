"""Which documents a corpus consists of, in which order, and in which split each of them is."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ttt.config.errors import bad_value
from ttt.config.schema import DataConfig
from ttt.data.sources import Document

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitDocument:
    """A document, the SHA-256 of its text in UTF-8 as hexadecimal digits, and the split that follows from it."""

    name: str
    text: str
    sha256: str
    split: str

    @property
    def bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


def select_documents(documents: Iterable[Document], config: DataConfig) -> list[SplitDocument]:
    """Distinct documents of ``data.min_chars`` to ``data.max_chars`` characters, ordered by the hash of their text.

    Neither the order nor the split of a document depends on where it was found or on the other documents. Of several
    with the same text, the one whose name comes first stays.

    Raises:
        UserError: no document is left for training.
    """
    admitted = (d for d in documents if config.min_chars <= len(d.text) <= config.max_chars)
    hashed = sorted(((_sha256(d.text), d.name, d.text) for d in admitted), reverse=True)
    distinct = {sha256: (name, text) for sha256, name, text in hashed}
    selected = [
        SplitDocument(name, text, sha256, split_of(sha256, config.validation_fraction, config.test_fraction))
        for sha256, (name, text) in sorted(distinct.items())
    ]
    if not any(document.split == "train" for document in selected):
        bounds = f"of {config.min_chars} to {config.max_chars} characters (data.min_chars, data.max_chars)"
        raise bad_value("data.packages", config.packages, f"no training document {bounds}; widen them or add packages")
    return selected


def split_of(sha256: str, validation_fraction: float, test_fraction: float) -> str:
    """The split of a document with this hash, given as hexadecimal digits."""
    share = int(sha256[:16], base=16) / 16**16
    if share < validation_fraction:
        return "validation"
    if share < validation_fraction + test_fraction:
        return "test"
    return "train"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
