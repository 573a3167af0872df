"""The order of a corpus: all documents of all partial shards sorted by the hash of their text, without duplicates.

The order depends only on the texts, not on their file names or the process that tokenised them. It mixes texts of
different origin, and each split is one range of it. It takes 64 bytes of memory per document of the source.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttt.data.documents import SPLITS, Selection
from ttt.data.partial_shards import BY_HASH, ENTRY, read_entries, read_splits

RANKS = ("validation", "test", "train")
"""The splits in the order of their hashes."""


@dataclass(frozen=True, eq=False)
class Places:
    """The positions of the documents of a split or shard, in the order of the corpus.

    Attributes:
        partial_shard: int32 [documents], index of the partial shard.
        position: int32 [documents], index of the document within it.
        entries: ``ENTRY`` [documents].
    """

    partial_shard: np.ndarray
    position: np.ndarray
    entries: np.ndarray

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, part: slice | np.ndarray) -> "Places":
        return Places(self.partial_shard[part], self.position[part], self.entries[part])


def order_documents(partial_shards: Sequence[Path], selection: Selection) -> dict[str, Places]:
    """Return the documents of each split; of several documents with the same text, only the first in the source.

    With ``data.max_tokens`` they are chosen from the documents until the one that brings the source to this number.
    """
    read = [read_entries(folder) for folder in partial_shards]
    counts = [len(entries) for entries in read]
    entries = np.concatenate([np.zeros(0, ENTRY), *read])
    order = _distinct_by_hash(entries["sha256"][: documents_until(selection.max_tokens, entries["tokens"])])
    partial_shard = np.repeat(np.arange(len(read), dtype=np.int32), counts)
    position = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)])
    places = Places(partial_shard[order], position[order], entries[order])

    def rank(index: int) -> int:
        return RANKS.index(selection.split_by_hash(places.entries["sha256"][index].tobytes()))

    bounds = [bisect_left(range(len(places)), number, key=rank) for number in range(len(RANKS) + 1)]
    splits = np.concatenate([np.zeros(0, np.int8), *map(read_splits, partial_shards)])[order]
    if (splits == BY_HASH).all():
        return {split: places[slice(*bounds[number : number + 2])] for number, split in enumerate(RANKS)}
    by_hash = np.repeat([SPLITS.index(split) for split in RANKS], np.diff(bounds))
    splits = np.where(splits == BY_HASH, by_hash, splits)
    return {split: places[splits == SPLITS.index(split)] for split in RANKS}


def documents_until(max_tokens: int | None, tokens: np.ndarray) -> int:
    """Return the number of documents that are used, from the tokens of each in the order of the source."""
    return len(tokens) if max_tokens is None else int(np.searchsorted(np.cumsum(tokens), max_tokens)) + 1


def _distinct_by_hash(sha256: np.ndarray) -> np.ndarray:
    """Return the index of the first document of each hash, sorted by hash."""
    words = np.ascontiguousarray(sha256).view(">u8").reshape(-1, 4)
    # The last key of lexsort is the primary one; the sort is stable.
    order = np.lexsort(words.T[::-1])
    repeated = (words[order][1:] == words[order][:-1]).all(axis=1)
    return order[np.concatenate([[True], ~repeated])] if len(order) else order
