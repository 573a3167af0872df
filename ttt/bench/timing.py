"""Clocks of the CPU and the GPU, and the statistics of their times."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Timer = Callable[[], dict[str, float]]
"""Runs a function once and returns seconds by name."""

Clock = Callable[[str, Callable[[], object]], Timer]
"""``clock(name, function)`` times ``function`` under ``name``."""

LEAST_SECONDS = 0.1
"""A shorter function is repeated in a round until it has taken this long."""

MATMUL_SIZE = 1024
"""Rows and columns of the matrices whose product measures the machine's peak."""


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of one or more values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def clock_of(device: torch.device) -> Clock:
    """Return the clock of ``device``."""
    return timed_by_gpu if device.type == "cuda" else timed


def timed(name: str, function: Callable[[], object]) -> Timer:
    """Return a timer of the wall time of ``function``."""

    def measure() -> dict[str, float]:
        started = time.perf_counter()
        function()
        return {name: time.perf_counter() - started}

    return measure


def timed_by_gpu(name: str, function: Callable[[], object]) -> Timer:
    """Return a timer of the seconds between two events on the GPU's stream, before and after ``function``.

    If the processor launches kernels more slowly than the GPU runs them, that waiting is included.
    """

    def measure() -> dict[str, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return {name: begin.elapsed_time(end) / 1e3}

    return measure


def repeated(measure: Timer) -> dict[str, float]:
    """Repeat a timer for ``LEAST_SECONDS``, at least once, and return the least times.

    A single time of milliseconds depends on what ran before it and on other users of the machine.
    """
    started, times = time.perf_counter(), [measure()]
    while time.perf_counter() - started < LEAST_SECONDS:
        times.append(measure())
    return {name: min(seconds[name] for seconds in times) for name in times[0]}
