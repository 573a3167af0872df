"""Make the C library keep freed memory, which determines the speed of long contexts on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""


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
