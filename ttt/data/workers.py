"""Parallel processing in several processes, with results in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from ttt.config.errors import RunError
from ttt.config.system import available_cores
from ttt.data.stopping import SIGNALS

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
    others = set(multiprocessing.active_children())
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
    except BaseException:
        # After an error or a signal, do not wait for their tasks: what they leave is begun again.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    # Ctrl-C and the end of a job reach every process; the parent prints the one line and ends the others.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # The worker processes already use all cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent ends; it would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
