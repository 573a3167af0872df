"""A tokenised corpus in splits, prepared the first time that it is asked for and memory-mapped from then on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig
from ttt.data import files
from ttt.data.cache import prepared_folder
from ttt.data.documents import SPLITS
from ttt.data.manifest import Manifest, read_manifest
from ttt.data.tokenizer import SMALLEST_VOCABULARY


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of one split.

    Attributes:
        data: name of the corpus.
        split: ``train``, ``validation`` or ``test``.
        tokens: uint16 or uint32 [tokens], memory-mapped: one document after another, each closed by the
            end-of-document token.
        offsets: int64 [documents + 1]; document d is ``tokens[offsets[d] : offsets[d + 1]]``.
    """

    data: str
    split: str
    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, its end-of-document token included: int64 [documents]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False)
class Corpus:
    """All splits of a corpus.

    Attributes:
        splits: documents of ``train``, ``validation`` and ``test``; a document is in exactly one of them.
        vocab_size: tokens that the tokenizer knows; below ``data.vocab_size`` only if the texts gave no more.
        digest: SHA-256 over tokens, offsets and tokenizer: two corpora with one digest are the same.
        folder: where it lies in the cache.
        manifest: what it was made from, see ``ttt.data.manifest``.
    """

    splits: dict[str, Documents]
    vocab_size: int
    digest: str
    folder: Path
    manifest: Manifest


def load_corpus(config: DataConfig, show_progress: bool = True) -> Corpus:
    """The corpus that ``config`` describes, from the cache or prepared into it.

    Of several processes that ask at once, one prepares and the others wait for it. Opening checks sizes, not every
    token.

    Raises:
        UserError: a value of ``config`` is not allowed, its source cannot be read, or the cache cannot be written or
            is damaged.
    """
    _check(config)
    folder = prepared_folder(config, show_progress)
    try:
        return _open(config.name, folder)
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete this folder and start again") from error


def _check(config: DataConfig) -> None:
    if config.vocab_size < SMALLEST_VOCABULARY:
        allowed = f"must be at least {SMALLEST_VOCABULARY}: every byte and the end of a document"
        raise bad_value("data.vocab_size", config.vocab_size, allowed)
    if config.min_chars > config.max_chars:
        raise bad_value("data.min_chars", config.min_chars, f"must not exceed data.max_chars={config.max_chars}")
    for key in ("validation_fraction", "test_fraction"):
        if not 0 <= getattr(config, key) < 1:
            raise bad_value(f"data.{key}", getattr(config, key), "must be at least 0 and below 1")
    if config.validation_fraction + config.test_fraction >= 1:
        allowed = f"leaves none for training beside data.validation_fraction={config.validation_fraction}; lower one"
        raise bad_value("data.test_fraction", config.test_fraction, allowed)


def _open(name: str, folder: Path) -> Corpus:
    manifest = read_manifest(folder)
    splits = {split: Documents(name, split, *files.read_split(folder, split)) for split in SPLITS}
    for split, documents in splits.items():
        sizes = manifest["splits"][split]
        if (len(documents), len(documents.tokens)) != (sizes["documents"], sizes["tokens"]):
            raise ValueError(f"{split} has another size than in its manifest")
    if files.file_sha256(folder / files.TOKENIZER) != manifest["tokenizer_sha256"]:
        raise ValueError("the tokenizer is not the one of the manifest")
    return Corpus(splits, manifest["vocab_size"], manifest["digest"], folder, manifest)
