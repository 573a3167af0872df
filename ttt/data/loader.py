"""Batches for a whole training run, in an order that depends only on the seed and can be resumed at any step."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ttt.config.errors import UserError
from ttt.data.permutation import Order, permutation
from ttt.data.windows import Windows


class TrainLoader:
    """The batches of one rank over a whole run, int64 [batch_size, ctx + 1] each.

    Every epoch reads all windows in another order; a batch at the end of an epoch is filled from the next one. A global
    batch is ``world_size`` consecutive batches, one per rank. One iteration is the whole run: iterating again continues
    where the last iteration stopped.

    Args:
        windows: the data.
        batch_size: sequences in a batch of one rank.
        batches: batches that each rank reads in the whole run.
        seed: determines the order of every epoch.
        rank: this process's rank.
        world_size: number of ranks.
        ahead: batches that a thread reads while earlier ones are used, into pinned memory, from which a GPU copies
            while it computes; 0: each is read when it is asked for.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        batches: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        ahead: int = 0,
    ) -> None:
        self._windows = windows
        self._batch_size = batch_size
        self._batches = batches
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._ahead = ahead
        self._yielded = 0
        self._epoch = -1
        self._order: Order = ()

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._read_ahead() if self._ahead else map(self._batch, range(self._yielded, self._batches)):
            # Counted before it is used, because checkpoints are saved while the last batch is in use.
            self._yielded += 1
            yield batch

    def _read_ahead(self) -> Iterator[Tensor]:
        """Yield the batches that are left, of which one thread reads the next ones at the same time."""
        with ThreadPoolExecutor(1) as thread:
            coming: deque[Future[Tensor]] = deque()
            for index in range(self._yielded, self._batches):
                coming.append(thread.submit(self._pinned, index))
                if len(coming) > self._ahead:
                    yield coming.popleft().result()
            for batch in coming:
                yield batch.result()

    def _pinned(self, index: int) -> Tensor:
        return self._batch(index).pin_memory()

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next unread sequence, and what determines the order; equal on all ranks."""
        epoch, position = divmod(self._yielded * self._global_batch, len(self._windows))
        return {"epoch": epoch, "position": position, "seed": self._seed, "windows": len(self._windows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of ``state``.

        Raises:
            UserError: the state belongs to another order or other batches.
        """
        try:
            read = state["epoch"] * state["windows"] + state["position"]
            same_order = (state["seed"], state["windows"]) == (self._seed, len(self._windows))
        except KeyError as error:
            raise UserError(
                f"the checkpoint's position in the data lacks {error.args[0]}; start the run again"
            ) from None
        if not same_order or read % self._global_batch:
            ours = f"seed={self._seed} windows={len(self._windows)} sequences={self._global_batch}"
            raise UserError(
                f"the checkpoint's position in the data, {state}, does not fit {ours}; resume with the run's own values"
            )
        self._yielded = read // self._global_batch

    @property
    def _global_batch(self) -> int:
        return self._batch_size * self._world_size

    def _batch(self, index: int) -> Tensor:
        first = (index * self._world_size + self._rank) * self._batch_size
        return self._windows.batch([self._window(first + i) for i in range(self._batch_size)])

    def _window(self, position: int) -> int:
        """Return the window at a position in the endless sequence of epochs."""
        epoch, index = divmod(position, len(self._windows))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = permutation(len(self._windows), self._seed, epoch)
        return int(self._order[index])
