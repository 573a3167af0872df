"""Shards: the tokens of a split in files of bounded size. No document spans two files."""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib.format import write_array_header_1_0

from ttt.config.system import renamed_at_the_end
from ttt.data.order import Places
from ttt.data.partial_shards import read_documents
from ttt.data.sums import BlockCheck

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
        sums: of the blocks of each file, see ``ttt.data.sums``; None: do not verify what is read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        lengths: Sequence[int],
        dtype: np.dtype,
        sums: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.dtype = dtype
        self._paths = paths
        in_bytes = [length * dtype.itemsize for length in lengths]
        self._checks = sums and [BlockCheck(*shard) for shard in zip(paths, in_bytes, sums, strict=True)]
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
        begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
        if self._checks:
            self._checks[shard]((start - begin) * self.dtype.itemsize, (stop - begin) * self.dtype.itemsize)
        return self._open(self._paths[shard], end - begin, self.dtype)[start - begin : stop - begin]


def _map(path: Path, length: int, dtype: np.dtype) -> np.ndarray:
    # Length and dtype come from the manifest: a bit that flips in the file's header has no effect.
    tokens = np.memmap(path, dtype, "r", path.stat().st_size - length * dtype.itemsize, (length,))
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
    # Written, not mapped: on a full disk, writing to a new file's memory map kills the process with SIGBUS.
    with renamed_at_the_end(plan.path) as partial, partial.open("wb") as file:
        shape = (int(lengths.sum()),)
        write_array_header_1_0(file, {"descr": plan.dtype.str, "fortran_order": False, "shape": shape})
        header = file.tell()
        for number in np.unique(places.partial_shard):
            indices = np.flatnonzero(places.partial_shard == number)
            documents = read_documents(plan.partial_shards[number], places.position[indices])
            for document, (encoded, name) in zip(indices, documents, strict=True):
                file.seek(header + int(starts[document]) * plan.dtype.itemsize)
                file.write(encoded.astype(plan.dtype, copy=False).tobytes())
                names[document] = name
        lines = [
            json.dumps({"name": name, "sha256": sha256.tobytes().hex(), "split": plan.split, "tokens": int(length)})
            for name, sha256, length in zip(names, places.entries["sha256"], lengths, strict=True)
        ]
        list_of(plan.path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
