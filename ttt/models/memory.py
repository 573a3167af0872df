"""Memory of this process: its peak, and freed memory, which determines the speed of long contexts on a CPU."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for later tensors; return whether the C library supports it.

    Glibc returns blocks beyond 32 MB to the system at once, and the system clears every page of a new one. At a
    context of 32k, where every activation is such a block, that took a quarter to a half of a training step's time.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return all(
        mallopt(parameter, value) for parameter, value in ((M_MMAP_THRESHOLD, 2**28), (M_TRIM_THRESHOLD, 2**31 - 1))
    )


def forget_peak() -> None:
    """Reset the peak of ``peak_resident`` to the memory in use now, if the system allows it (Linux)."""
    if CLEAR.exists():
        CLEAR.write_text(CLEAR_PEAK)


def peak_resident() -> int:
    """Return the maximum resident memory of this process so far in bytes.

    On Linux VmHWM is read, because ``ru_maxrss`` includes the process that started this one.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start_peak(device: torch.device) -> None:
    """Start to measure the peak that ``peak_of`` returns.

    Memory that Python or the C library has freed but kept, such as an earlier run's, is returned to the system first.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc
        trim(0)
    forget_peak()


def return_memory() -> None:
    """Return the memory of tensors that are no longer used to the system and to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_of(device: torch.device) -> int | None:
    """Return the most bytes in use since ``start_peak``; None on a device that does not tell.

    On a GPU these are torch's tensors there; on a CPU all of the process, which without a model is some 400 MB.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident() if device.type == "cpu" else None
