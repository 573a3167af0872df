"""The order of a corpus: all documents of all stretches by the hash of their text, each text once.

It depends on the texts alone, not on where they were found or on who tokenised them; texts from one place are spread
over the whole corpus, and the splits are three ranges of it. Memory holds 64 bytes for each document of the source.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.config.schema import DataConfig
from ttt.data.documents import split_of
from ttt.data.stretches import ENTRY, read_entries

BY_HASH = ("validation", "test", "train")
"""The splits in the order of their hashes."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the documents of a split or of a shard lie, in the order of the corpus.

    Attributes:
        stretch: int32 [documents], which stretch.
        position: int32 [documents], which of its documents.
        entries: ``ENTRY`` [documents].
    """

    stretch: np.ndarray
    position: np.ndarray
    entries: np.ndarray

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, part: slice) -> "Places":
        return Places(self.stretch[part], self.position[part], self.entries[part])


def order_documents(stretches: Sequence[Path], config: DataConfig) -> dict[str, Places]:
    """The documents of each split; of several with one text the first of the source stays."""
    read = [read_entries(folder) for folder in stretches]
    counts = [len(entries) for entries in read]
    entries = np.concatenate([np.zeros(0, ENTRY), *read])
    order = _distinct_by_hash(entries["sha256"])
    stretch = np.repeat(np.arange(len(read), dtype=np.int32), counts)
    position = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)])
    places = Places(stretch[order], position[order], entries[order])

    def rank(place: int) -> int:
        sha256 = places.entries["sha256"][place].tobytes()
        return BY_HASH.index(split_of(sha256, config.validation_fraction, config.test_fraction))

    bounds = [bisect_left(range(len(places)), which, key=rank) for which in range(len(BY_HASH) + 1)]
    return {split: places[slice(*bounds[which : which + 2])] for which, split in enumerate(BY_HASH)}


def _distinct_by_hash(sha256: np.ndarray) -> np.ndarray:
    """Indices of the first of each hash, by hash."""
    words = np.ascontiguousarray(sha256).view(">u8").reshape(-1, 4)
    # The last key of lexsort is the first to sort by; equal ones keep their order.
    order = np.lexsort(words.T[::-1])
    repeated = (words[order][1:] == words[order][:-1]).all(axis=1)
    return order[np.concatenate([[True], ~repeated])] if len(order) else order
