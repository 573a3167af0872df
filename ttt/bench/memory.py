"""The most memory that a piece of work takes, measured in a process of its own."""

import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from ttt.bench.case import Case, Variant

WARM_UP_TOKENS = 64
"""A short sequence first: what kernels and threads take once is not the work's."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def peak_memory(case: Case, variant: Variant, threads: int) -> int:
    """Bytes that forward and backward pass add at most to a process that has inputs and parameters already.

    Raises:
        BrokenProcessPool: the process died, most likely for want of memory.
    """
    # A fresh interpreter: a fork would begin with this process's memory.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, case, variant, threads).result()


def _measure(case: Case, variant: Variant, threads: int) -> int:
    torch.set_num_threads(threads)
    case.build(variant, min(case.setting.tokens, WARM_UP_TOKENS)).forward_backward()
    work = case.build(variant, case.setting.tokens)
    _forget_peak()
    before = _peak()
    work.forward_backward()
    return _peak() - before


def _forget_peak() -> None:
    """Sets the peak back to what the process holds now, where the system can (Linux)."""
    if CLEAR.exists():
        CLEAR.write_text(CLEAR_PEAK)


def _peak() -> int:
    """The most bytes that were resident so far.

    Linux's ``ru_maxrss`` counts the process that this one was started from too, so its own figure is read there.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
