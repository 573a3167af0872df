"""Peak memory of a function, measured in a separate process."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from ttt.models.memory import forget_peak, peak_resident

WARM_UP_TOKENS = 64
"""Length of a sequence that runs first, so that one-time allocations of kernels and threads do not count."""


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
    forget_peak()
    before = peak_resident()
    function()
    return peak_resident() - before
