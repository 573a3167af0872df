"""Shards: the tokens of a split in files of bounded size. No document spans two files."""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ttt.config.system import renamed_at_the_end
from ttt.data.order import Places
from ttt.data.partial_shards import read_documents

SHARD_TOKENS = 2**28
"""A shard begins at the first document after each multiple of this number of tokens: 512 or 1024 MiB, or a bit more."""

OPEN = 256
"""Shards mapped at once, 128 GB or more; a process can usually open 1024 files."""

MAPPED_BYTES = 2**28
"""Bytes read through memory maps before all maps are closed, because pages count as memory while they are mapped."""


class TokenSequence(Protocol):
    """The tokens of a split as one sequence: an array or ``TokenShards``."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class TokenShards:
    """The shards of a split as one sequence of tokens, read in slices.

    Memory use is bounded: files are mapped on demand and closed again. Copy or use a slice before reading the next one.

    Args:
        paths: the files in order, each a one-dimensional ``.npy``.
        lengths: number of tokens of each file.
        dtype: of all files, uint16 or uint32.
    """

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], dtype: np.dtype) -> None:
        self.dtype = dtype
        self._paths = paths
        self._starts = np.cumsum([0, *lengths])
        self._mapped = 0
        self._open = lru_cache(maxsize=OPEN)(_map)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        shard = int(np.searchsorted(self._starts, start, "right")) - 1
        if start >= stop:
            return np.zeros(0, self.dtype)
        if stop <= self._starts[shard + 1]:
            return self._read(shard, start, stop)
        last = int(np.searchsorted(self._starts, stop, "left"))
        edges = [start, *self._starts[shard + 1 : last], stop]
        shards = range(shard, last)
        return np.concatenate([self._read(*part) for part in zip(shards, edges, edges[1:], strict=False)])

    def _read(self, shard: int, start: int, stop: int) -> np.ndarray:
        self._mapped += (stop - start) * self.dtype.itemsize + 4096
        if self._mapped > MAPPED_BYTES:
            self._open.cache_clear()
            self._mapped = 0
        return self._open(self._paths[shard])[start - self._starts[shard] : stop - self._starts[shard]]


def _map(path: Path) -> np.ndarray:
    tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if hasattr(mmap, "MADV_RANDOM"):
        # Windows are read in random order; without this, the system reads 128 KiB for each window of 512 bytes.
        tokens.base.madvise(mmap.MADV_RANDOM)
    return tokens


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """A shard to write, and its list of documents beside it.

    Attributes:
        path: the ``.npy`` file of the tokens.
        split: the split.
        places: the documents, in order.
        partial_shards: the folder of each partial shard.
        dtype: dtype of the tokens.
    """

    path: Path
    split: str
    places: Places
    partial_shards: Sequence[Path]
    dtype: np.dtype


def shard_bounds(tokens: np.ndarray) -> list[int]:
    """Return the index of the first document of every shard, then the number of documents.

    Args:
        tokens: number of tokens of each document.
    """
    shard = (np.cumsum(tokens) - tokens) // SHARD_TOKENS
    return [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(tokens)] if len(tokens) else [0]


def list_of(path: Path) -> Path:
    """Return the path of the list of a shard's documents."""
    return path.with_suffix(".documents")


def write_shard(plan: ShardPlan) -> None:
    """Gather the documents of a shard from the partial shards.

    Raises:
        OSError: it cannot be written.
    """
    places, lengths = plan.places, plan.places.entries["tokens"]
    starts = np.cumsum(lengths) - lengths
    names = [""] * len(places)
    # The shard is renamed last: if it exists, its list is complete.
    with renamed_at_the_end(plan.path) as partial:
        tokens = np.lib.format.open_memmap(partial, "w+", plan.dtype, (int(lengths.sum()),))
        for number in np.unique(places.partial_shard):
            indices = np.flatnonzero(places.partial_shard == number)
            documents = read_documents(plan.partial_shards[number], places.position[indices])
            for document, (encoded, name) in zip(indices, documents, strict=True):
                tokens[starts[document] : starts[document] + len(encoded)] = encoded
                names[document] = name
        lines = [
            json.dumps({"name": name, "sha256": sha256.tobytes().hex(), "split": plan.split, "tokens": int(length)})
            for name, sha256, length in zip(names, places.entries["sha256"], lengths, strict=True)
        ]
        list_of(plan.path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        tokens.flush()
