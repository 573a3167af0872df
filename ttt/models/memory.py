"""How the C library keeps memory between two tensors, which decides the speed of long contexts on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees for its next tensors; returns whether the C library could be told.

    Glibc gives blocks beyond 32 MB back to the system at once, and the system clears every page of a new one. At a
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
