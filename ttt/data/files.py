"""The files of a prepared corpus besides its manifest.

=========================  ===========================================================================================
``<split>.tokens.npy``     uint16 or uint32 [tokens]: one document after another
``<split>.offsets.npy``    int64 [documents + 1]: document d is ``tokens[offsets[d] : offsets[d + 1]]``
``tokenizer.json``         the tokenizer
``documents.jsonl``        one line a document, in the order of the tokens: its name, SHA-256, split and tokens
=========================  ===========================================================================================
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.data.documents import SPLITS, SplitDocument

TOKENIZER = "tokenizer.json"
DOCUMENTS = "documents.jsonl"


@dataclass(frozen=True)
class EncodedDocument:
    """A document and its tokens, uint16 or uint32 [tokens], the end-of-document token last."""

    document: SplitDocument
    tokens: np.ndarray


def write_split(folder: Path, split: str, documents: Sequence[EncodedDocument], dtype: np.dtype) -> dict[str, int]:
    """Writes tokens, as ``dtype``, and offsets of a split; returns its numbers of documents, tokens and bytes."""
    offsets = np.zeros(len(documents) + 1, np.int64)
    np.cumsum([len(encoded.tokens) for encoded in documents], out=offsets[1:])
    tokens = np.concatenate([np.zeros(0, dtype), *(encoded.tokens for encoded in documents)], dtype=dtype)
    np.save(folder / f"{split}.tokens.npy", tokens, allow_pickle=False)
    np.save(folder / f"{split}.offsets.npy", offsets, allow_pickle=False)
    size = sum(encoded.document.bytes for encoded in documents)
    return {"documents": len(documents), "tokens": len(tokens), "bytes": size}


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, memory-mapped, and offsets of a split.

    Raises:
        OSError: a file is missing.
        ValueError: a file is shorter than its header says, or the two do not belong together.
    """
    tokens = np.load(folder / f"{split}.tokens.npy", mmap_mode="r", allow_pickle=False)
    offsets = np.load(folder / f"{split}.offsets.npy", allow_pickle=False)
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 1).any():
        raise ValueError(f"offsets of {split} do not fit its tokens")
    return tokens, offsets


def write_document_list(folder: Path, documents: Iterable[EncodedDocument]) -> None:
    """Writes ``documents.jsonl``."""
    with (folder / DOCUMENTS).open("w", encoding="utf-8") as lines:
        for encoded in documents:
            document = encoded.document
            entry = {"name": document.name, "sha256": document.sha256, "split": document.split}
            lines.write(json.dumps(entry | {"tokens": len(encoded.tokens)}) + "\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a small file as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content_digest(folder: Path) -> str:
    """SHA-256 over everything that a model sees: the tokenizer, and tokens and offsets of all splits."""
    digest = hashlib.sha256((folder / TOKENIZER).read_bytes())
    for split in SPLITS:
        for array in read_split(folder, split):
            digest.update(f"{split} {array.dtype.str} {len(array)}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
