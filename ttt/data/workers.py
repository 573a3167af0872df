"""Work for several processes, whose results come back in order."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from ttt.config.errors import RunError

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """``function(task)`` of every task, in order; ``workers`` 0 means one process for each core.

    One worker, or a single task, needs no other process. At most two tasks a worker wait at any time.

    Raises:
        RunError: a process was killed.
    """
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    workers = workers or _cores()
    if workers == 1 or len(first) < 2:
        yield from map(function, chain(first, remaining))
        return
    # Forked processes could inherit locks that a thread of a library holds.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        waiting: deque[Future[R]] = deque()
        for task in chain(first, remaining):
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        line = "a process that prepares data was killed, perhaps for want of memory; the same command goes on"
        raise RunError(f"{line}, data.workers=1 needs least") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    # The processes are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
