"""Peak memory of a function, measured in a separate process."""

import platform
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

Build = Callable[[int], Callable[[], object]]
"""The work on sequences of so many tokens, ready to run. It can be pickled, for a process of its own."""

WARM_UP_TOKENS = 64
"""A short sequence is run first, so that one-time allocations of kernels and threads do not count."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def peak_memory(build: Build, tokens: int, threads: int) -> int:
    """Return the most bytes that a run on ``tokens`` tokens needs beyond its inputs and parameters.

    Raises:
        BrokenProcessPool: the process died, most likely for lack of memory.
    """
    # A fresh interpreter: a fork would start with this process's memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, build, tokens, threads).result()


def _measure(build: Build, tokens: int, threads: int) -> int:
    torch.set_num_threads(threads)
    build(min(tokens, WARM_UP_TOKENS))()
    work = build(tokens)
    _forget_peak()
    before = _peak()
    work()
    return _peak() - before


def _forget_peak() -> None:
    """Reset the peak to what the process holds now, where the system allows it (Linux)."""
    if CLEAR.exists():
        CLEAR.write_text(CLEAR_PEAK)


def _peak() -> int:
    """Return the maximum resident memory so far in bytes.

    Linux's ``ru_maxrss`` includes the process that started this one, so VmHWM is read there.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
