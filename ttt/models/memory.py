"""Memory of this process: its peak, and the two settings of the C library that determine the speed on a CPU."""

import ctypes
import gc
import mmap
import os
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt``."""

NO_TRIMMING = -1
LARGEST_BLOCK = 2**28
"""Bytes up to which a freed block is kept."""

DEFAULT_MMAPS = 65536
"""Glibc's ``M_MMAP_MAX``."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OVERCOMMIT, STRICT = Path("/proc/sys/vm/overcommit_memory"), "2"


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for later tensors, in large pages; return whether the C library supports it.

    Glibc returns blocks beyond 32 MB to the system at once, and the system clears every page of a new one. At a
    context of 32k, where every activation is such a block, that took a quarter to a half of a training step's time.
    Pages of 2 MB need fewer address translations: on a virtual machine steps took 0.5 to 0.9 of the time with them.
    Call it before the first tensors: those that exist stay where they are.
    """
    libc = _glibc()
    if libc is None:
        return False
    kept = all(
        libc.mallopt(parameter, value)
        for parameter, value in ((M_MMAP_THRESHOLD, LARGEST_BLOCK), (M_TRIM_THRESHOLD, NO_TRIMMING))
    )
    _use_large_pages(libc)
    return kept


def _glibc() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None


def _use_large_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap's addresses by half of the machine's memory, and ask the system for large pages there.

    Addresses take no memory until something is written. Where they are limited, the heap stays as it is.
    """
    if not has_large_pages() or not _has_free_addresses():
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE
    size = os.sysconf("SC_PHYS_PAGES") * page // 2
    libc.mallopt(M_MMAP_MAX, 0)  # from the heap, whatever its size
    block = libc.malloc(size)
    if block:
        start = -(-block // page) * page
        libc.madvise(start, (block + size - start) // page * page, mmap.MADV_HUGEPAGE)
        libc.free(block)
    libc.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)


def has_large_pages() -> bool:
    """Return whether the system gives large pages to who asks for them."""
    return LARGE_PAGES.exists() and "[never]" not in LARGE_PAGES.read_text()


def _has_free_addresses() -> bool:
    """Return whether addresses are neither limited nor counted as memory."""
    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return False
    return not OVERCOMMIT.exists() or OVERCOMMIT.read_text().strip() != STRICT


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
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
        _use_large_pages(libc)  # the trimmed heap has lost its addresses
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
