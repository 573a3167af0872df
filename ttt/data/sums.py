"""Sums of the blocks of a shard, which find a flipped bit when its block is read for the first time.

Opening a corpus reads only the sums, 4 bytes per block, and a run verifies only what it reads.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttt.config.errors import UserError

BLOCK_BYTES = 2**14
"""Bytes of tokens in a block: a few windows, so that reading windows in any order reads little more than them."""


def block_sums(shard: Path, token_bytes: int) -> np.ndarray:
    """Return the CRC-32 of each block of a shard with ``token_bytes`` bytes of tokens: uint32 [blocks]."""
    with shard.open("rb") as file:
        file.seek(-token_bytes, 2)
        return np.array([zlib.crc32(file.read(BLOCK_BYTES)) for _ in range(_blocks(token_bytes))], np.uint32)


def split_at_shards(sums: np.ndarray, token_bytes: Sequence[int]) -> list[np.ndarray]:
    """Return the sums of each shard, with ``token_bytes`` bytes of tokens each, from the sums of a whole split.

    Raises:
        ValueError: there are more or fewer sums than blocks.
    """
    counts = [*map(_blocks, token_bytes)]
    if sum(counts) != len(sums):
        raise ValueError(f"there are {len(sums)} sums of {sum(counts)} blocks")
    return np.split(sums, np.cumsum(counts)[:-1]) if counts else []


class BlockCheck:
    """Compares the blocks of a shard with their sums, each once.

    Args:
        shard: the file.
        token_bytes: bytes of tokens, at its end.
        sums: uint32 [blocks].
    """

    def __init__(self, shard: Path, token_bytes: int, sums: np.ndarray) -> None:
        self._shard, self._token_bytes, self._sums = shard, token_bytes, sums
        self._checked = np.zeros(len(sums), bool)

    def __call__(self, start: int, stop: int) -> None:
        """Check the blocks that have the bytes ``start`` to ``stop`` of the tokens, exclusive.

        Raises:
            UserError: a block has changed since it was written.
        """
        first, end = start // BLOCK_BYTES, _blocks(stop)
        if self._checked[first:end].all():
            return
        unread = first + np.flatnonzero(~self._checked[first:end])
        with self._shard.open("rb", buffering=0) as file:
            for block in map(int, unread):
                file.seek(block * BLOCK_BYTES - self._token_bytes, 2)
                if (
                    zlib.crc32(file.read(min(BLOCK_BYTES, self._token_bytes - block * BLOCK_BYTES)))
                    != self._sums[block]
                ):
                    where = f"block {block} of {len(self._sums)} has changed since it was written"
                    raise UserError(f"{self._shard}: damaged ({where}); delete its folder and prepare it again")
                self._checked[block] = True


def _blocks(token_bytes: int) -> int:
    return -(-token_bytes // BLOCK_BYTES)
