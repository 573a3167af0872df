"""Peak memory of a function, measured in a separate process."""

import platform
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

WARM_UP_TOKENS = 64
"""Length of a sequence that runs first, so that one-time allocations of kernels and threads do not count."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def peak_memory(function_of: Callable[[int], Callable[[], object]], tokens: int, threads: int) -> int:
    """Return the most bytes that ``function_of(tokens)`` needs beyond its inputs and parameters.

    ``function_of`` builds the function for a number of tokens, and can be pickled.

    Raises:
        BrokenProcessPool: the process died, most likely for lack of memory.
    """
    # A fresh interpreter: a fork would start with this process's memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, function_of, tokens, threads).result()


def _measure(function_of: Callable[[int], Callable[[], object]], tokens: int, threads: int) -> int:
    torch.set_num_threads(threads)
    function_of(min(tokens, WARM_UP_TOKENS))()
    function = function_of(tokens)
    _forget_peak()
    before = _peak()
    function()
    return _peak() - before


def _forget_peak() -> None:
    """Reset the peak to the memory that the process uses now, if the system allows it (Linux)."""
    if CLEAR.exists():
        CLEAR.write_text(CLEAR_PEAK)


def _peak() -> int:
    """Return the maximum resident memory so far in bytes.

    On Linux VmHWM is read, because ``ru_maxrss`` includes the process that started this one.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
