"""Partial shards: consecutive documents of a source, tokenised but not yet sorted into shards.

A partial shard is a folder that is renamed when it is complete, so that a killed preparation leaves only complete ones:

=================  =====================================================================================
``tokens.npy``     uint16 or uint32 [tokens]: the admitted documents in order
``entries.npy``    ``ENTRY`` [documents]
``splits.npy``     int8 [documents]: the split of stretches; missing if there are none
``names.txt``      their names, concatenated, in UTF-8
=================  =====================================================================================
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.config.system import renamed_at_the_end
from ttt.data.documents import SPLITS, Selection, sha256_of
from ttt.data.files import write_array
from ttt.data.sources import Document
from ttt.data.vocabulary import dtype_of, open_vocabulary

PARTIAL_SHARD_CHARS = 2**23
"""A partial shard ends with the document that brings it to this many characters."""

ENTRY = np.dtype([("sha256", "V32"), ("tokens", "<i8"), ("bytes", "<i8"), ("name", "<i8")])
"""A document: hash of its text, its tokens, bytes of its text, bytes of its name."""

BY_HASH = -1
"""Split of a document that is chosen by the hash of its text."""


@dataclass(frozen=True)
class PartialShard:
    """Documents to tokenise together into ``folder``, with the tokenizer in ``tokenizer_folder``."""

    documents: list[Document]
    folder: Path
    tokenizer_folder: Path
    selection: Selection


def batches_of_text(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield batches of documents with at least ``PARTIAL_SHARD_CHARS`` characters; the last may have fewer."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= PARTIAL_SHARD_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def write_partial_shard(shard: PartialShard) -> None:
    """Tokenise the admitted documents of a batch and write them as a partial shard.

    Raises:
        OSError: it cannot be written.
    """
    vocabulary = open_vocabulary(shard.tokenizer_folder)
    admitted = [document for document in shard.documents if shard.selection.admits(document)]
    tokens = vocabulary.encode([document.text for document in admitted])
    names = [document.name.encode() for document in admitted]
    entries = [
        (sha256_of(document.text), len(encoded), len(document.text.encode()), len(name))
        for document, encoded, name in zip(admitted, tokens, names, strict=True)
    ]
    empty = np.zeros(0, dtype_of(vocabulary))
    with renamed_at_the_end(shard.folder) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_array(partial / "tokens.npy", np.concatenate([empty, *tokens]))
        write_array(partial / "entries.npy", np.array(entries, ENTRY))
        if any(document.split for document in admitted):
            splits = [SPLITS.index(document.split) if document.split else BY_HASH for document in admitted]
            write_array(partial / "splits.npy", np.array(splits, np.int8))
        (partial / "names.txt").write_bytes(b"".join(names))


def read_entries(folder: Path) -> np.ndarray:
    """Return the entries of a partial shard, ``ENTRY`` [documents]."""
    return np.load(folder / "entries.npy", allow_pickle=False)


def read_splits(folder: Path) -> np.ndarray:
    """Return for each document the index of its split in ``SPLITS``, or ``BY_HASH``: int8 [documents]."""
    path = folder / "splits.npy"
    return np.load(path, allow_pickle=False) if path.exists() else np.full(len(read_entries(folder)), BY_HASH, np.int8)


def read_documents(folder: Path, positions: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """Yield tokens and name of the documents at these positions of a partial shard."""
    entries = read_entries(folder)
    tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
    names = (folder / "names.txt").read_bytes()
    token_ends, name_ends = np.cumsum(entries["tokens"]), np.cumsum(entries["name"])
    for position in positions:
        entry = entries[position]
        name = names[name_ends[position] - entry["name"] : name_ends[position]]
        yield tokens[token_ends[position] - entry["tokens"] : token_ends[position]], name.decode()
