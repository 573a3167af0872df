"""Parallel processing in several processes, with results in order."""

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
from ttt.config.system import available_cores

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Yield ``function(task)`` for every task, in order; ``workers`` 0 means one process per core.

    With one worker or a single task no process is started. At most two tasks per worker are queued.

    Raises:
        RunError: a process was killed.
    """
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    workers = workers or available_cores()
    if workers == 1 or len(first) < 2:
        yield from map(function, chain(first, remaining))
        return
    # Spawn, because forked processes could inherit a lock that a library's thread holds.
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
        line = "a process that prepares data was killed, perhaps for lack of memory; the same command resumes"
        raise RunError(f"{line}, data.workers=1 needs the least memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    # The worker processes already use all cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends; it would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
