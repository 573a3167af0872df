"""Batches for a whole training run, in an order that depends on the seed alone and can be resumed anywhere."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ttt.data.windows import Windows


class TrainLoader:
    """The batches of one rank over a whole run, int64 [batch_size, ctx + 1] each.

    The windows are read epoch after epoch, each in an order of its own; where an epoch ends within a batch, the next
    one fills it. A global batch is ``world_size`` consecutive batches, one for each rank. One pass is the whole run:
    iterating again goes on where the last iteration stopped.

    Args:
        windows: what is read.
        batch_size: sequences in a batch of one rank.
        batches: batches that each rank reads in the whole run.
        seed: determines the order of every epoch.
        rank: which of the ranks this is.
        world_size: how many ranks there are.
    """

    def __init__(
        self, windows: Windows, batch_size: int, batches: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._windows = windows
        self._batch_size = batch_size
        self._batches = batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._yielded = 0
        self._epoch = -1
        self._order = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Tensor]:
        while self._yielded < self._batches:
            batch = self._batch(self._yielded)
            # Counted before it is used: a checkpoint is taken while the last batch is in use, not after it.
            self._yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of batches yielded so far, the same on every rank."""
        return {"batches": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues after the batches of ``state``; the loader must be built as the one that gave it."""
        self._yielded = state["batches"]

    def _batch(self, index: int) -> Tensor:
        first = (index * self._world_size + self._rank) * self._batch_size
        return self._windows.batch([self._window(first + i) for i in range(self._batch_size)])

    def _window(self, position: int) -> int:
        """The window at a position of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self._windows))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._windows))
        return int(self._order[place])
