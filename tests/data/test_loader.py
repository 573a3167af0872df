"""Batches of a training run."""

from collections.abc import Callable
from itertools import chain, islice
from threading import Semaphore

import pytest
import torch

from ttt.config.errors import UserError
from ttt.data.corpus import Documents
from ttt.data.loader import TrainLoader
from ttt.data.windows import Windows, windows_within

Make = Callable[[list[int]], Documents]


@pytest.fixture
def windows(make_documents: Make) -> Windows:
    """Ten windows of two tokens; the first token names the window."""
    return windows_within(make_documents([6, 1, 4, 3]), ctx=1)


def names(loader: TrainLoader) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in loader]


def test_batches(windows: Windows) -> None:
    loader = TrainLoader(windows, batch_size=3, batches=7, seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 7
    assert all(batch.shape == (3, 2) and batch.dtype == torch.int64 for batch in batches)


def test_every_epoch_reads_every_window_once_in_its_own_order(windows: Windows) -> None:
    read = [name for batch in names(TrainLoader(windows, batch_size=3, batches=10, seed=0)) for name in batch]
    epochs = [read[start : start + len(windows)] for start in range(0, 30, len(windows))]
    assert len(windows) == 10
    assert all(sorted(epoch) == sorted(windows.batch(range(10))[:, 0].tolist()) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_only_on_the_seed(windows: Windows) -> None:
    orders = [names(TrainLoader(windows, 3, 10, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_each_global_batch(windows: Windows, world_size: int) -> None:
    ranks = [names(TrainLoader(windows, 2, 9, 0, rank, world_size)) for rank in range(world_size)]
    whole = names(TrainLoader(windows, 2 * world_size, 9, 0))
    assert [[*chain(*batches)] for batches in zip(*ranks, strict=True)] == whole
    assert len(set(whole[0])) == 2 * world_size


def test_fewer_windows_than_a_batch(windows: Windows) -> None:
    (batch,) = names(TrainLoader(windows.subset(2), batch_size=5, batches=1, seed=0))
    assert batch.count(0) in (2, 3)
    assert len(batch) == 5


@pytest.mark.parametrize("cut", range(9))
def test_resumed_equals_uninterrupted(windows: Windows, cut: int) -> None:
    whole = names(TrainLoader(windows, 3, 8, seed=4, rank=1, world_size=2))
    interrupted = TrainLoader(windows, 3, 8, seed=4, rank=1, world_size=2)
    before = [batch[:, 0].tolist() for batch in islice(interrupted, cut)]
    resumed = TrainLoader(windows, 3, 8, seed=4, rank=1, world_size=2)
    resumed.load_state_dict(interrupted.state_dict())
    assert before + names(resumed) == whole


def test_state_counts_the_batch_in_use(windows: Windows) -> None:
    loader = TrainLoader(windows, 3, 8, seed=0)
    order = {"seed": 0, "windows": 10}
    assert loader.state_dict() == {"epoch": 0, "position": 0} | order
    places = [divmod(3 * batches, 10) for batches in range(1, 9)]
    states = [loader.state_dict() for _ in loader]
    assert states == [{"epoch": epoch, "position": position} | order for epoch, position in places]


def test_every_rank_has_the_same_state(windows: Windows) -> None:
    loaders = [TrainLoader(windows, 2, 9, 0, rank, world_size=2) for rank in range(2)]
    for _ in range(7):
        assert len({tuple(next(iter(loader)).shape) for loader in loaders}) == 1
        assert loaders[0].state_dict() == loaders[1].state_dict()


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_number_of_ranks_may_change(windows: Windows, world_size: int) -> None:
    """The position is in the data, whatever the number of ranks."""
    whole = [*chain(*names(TrainLoader(windows, 6, 8, seed=4)))]
    before = TrainLoader(windows, 6, 8, seed=4)
    read = [*chain(*(batch[:, 0].tolist() for batch in islice(before, 3)))]
    ranks = [TrainLoader(windows, 6 // world_size, 8, 4, rank, world_size) for rank in range(world_size)]
    for loader in ranks:
        loader.load_state_dict(before.state_dict())
    rest = [*chain(*(chain(*batches) for batches in zip(*map(names, ranks), strict=True)))]
    assert read + rest == whole


@pytest.mark.parametrize("change", [{"seed": 1}, {"windows": 11}, {"position": 2}], ids=str)
def test_a_position_in_another_order_is_refused(windows: Windows, change: dict[str, int]) -> None:
    loader = TrainLoader(windows, 3, 8, seed=0)
    with pytest.raises(UserError, match="the checkpoint's position in the data"):
        loader.load_state_dict({"epoch": 0, "position": 3, "seed": 0, "windows": 10} | change)
    with pytest.raises(UserError, match="lacks epoch"):
        loader.load_state_dict({"batches": 3})


def test_an_iteration_continues_where_the_last_one_stopped(windows: Windows) -> None:
    loader = TrainLoader(windows, 3, 8, seed=0)
    first = [next(iter(loader))[:, 0].tolist() for _ in range(2)]
    assert first + names(loader) == names(TrainLoader(windows, 3, 8, seed=0))
    assert names(loader) == []


def test_batches_that_are_read_ahead_are_the_same(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda batch: pinned.append(batch) or batch)
    loader = TrainLoader(windows, 3, 8, seed=0, ahead=2)
    first = list(islice(iter(loader), 3))
    # The position counts what was used, not what was read.
    assert len(pinned) > len(first)
    assert loader.state_dict() == {"epoch": 0, "position": 9, "seed": 0, "windows": 10}
    rest = list(loader)
    assert [batch[:, 0].tolist() for batch in first + rest] == names(TrainLoader(windows, 3, 8, seed=0))
    assert all(any(batch is one for one in pinned) for batch in first + rest)


def test_the_next_two_batches_are_read_while_one_is_used(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes as long as reading a batch, or longer, never waits for it."""
    read = Semaphore(0)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda batch: read.release() or batch)
    batches = iter(TrainLoader(windows, 3, 8, seed=0, ahead=2))
    next(batches)
    assert all(read.acquire(timeout=60) for _ in range(3)), "the one in use and two more, without being asked"
    next(batches)
    assert read.acquire(timeout=60), "one more for each that is used"
