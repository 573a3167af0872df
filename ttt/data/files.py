"""The files of a prepared corpus besides its manifest.

===============================  =====================================================================================
``<split>-00000.npy`` ...        uint16 or uint32 [tokens]: documents in order; no document spans two files
                                 (``data=tokens``: links to the user's ``.npy`` or ``.bin`` files)
``<split>.offsets.npy``          int64 [documents + 1]: document d is ``offsets[d] : offsets[d + 1]`` of all tokens
``<split>.sums.npy``             uint32 [blocks]: a sum of every block of the split's shards, see ``ttt.data.sums``
``tokenizer.json`` or ``.model`` the tokenizer
``documents.jsonl``              one line per document, in the order of the tokens: its name, SHA-256, split and tokens
===============================  =====================================================================================
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ttt.data.vocabulary import tokenizer_file

DOCUMENTS = "documents.jsonl"
BLOCK = 2**22
"""Elements of an array in memory at once."""


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard, such as ``train-00000.npy``."""
    return f"{split}-{number:05}.npy"


def offsets_name(split: str) -> str:
    """Return the name of a split's offsets, such as ``train.offsets.npy``."""
    return f"{split}.offsets.npy"


def sums_name(split: str) -> str:
    """Return the name of the sums of a split's blocks, such as ``train.sums.npy``."""
    return f"{split}.sums.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a ``.npy`` file.

    Into a file of its own, numpy writes without Python: the error of a full disk then has neither reason nor number.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        np.save(cast(Any, SimpleNamespace(write=file.write)), array, allow_pickle=False)


def read_offsets(folder: Path, split: str) -> np.ndarray:
    """Return the offsets of a split, memory-mapped: int64 [documents + 1].

    Raises:
        OSError: the file is missing.
        ValueError: it is shorter than its header states.
    """
    return np.load(folder / offsets_name(split), mmap_mode="r", allow_pickle=False)


def content_digest(folder: Path, shards: dict[str, list[str]], dtype: np.dtype) -> str:
    """Return the SHA-256 over everything that a model sees: the tokenizer, and tokens and offsets of all splits.

    ``shards`` names the shards of each split; their sizes do not affect the digest.
    """

    def opened(name: str) -> np.ndarray:
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    return digest_of_tokens(folder, {split: map(opened, names) for split, names in shards.items()}, dtype)


def digest_of_tokens(folder: Path, tokens: Mapping[str, Iterable[np.ndarray]], dtype: np.dtype) -> str:
    """Return the digest of ``content_digest`` from the arrays of tokens of each split, of ``dtype``."""
    digest = hashlib.sha256(tokenizer_file(folder).read_bytes())
    for split, arrays in tokens.items():
        offsets = read_offsets(folder, split)
        digest.update(f"{split} {dtype.str} {offsets[-1]}".encode())
        for array in arrays:
            for block in blocks(array):
                digest.update(np.ascontiguousarray(block).data)
        digest.update(f"{split} {offsets.dtype.str} {len(offsets)}".encode())
        for block in blocks(offsets):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array in consecutive blocks of at most ``BLOCK`` elements."""
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]
