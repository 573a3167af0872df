"""Times that can be compared: everything in turn, in one process, round after round.

A shared machine is faster in one minute than in the next. What is compared is therefore timed in the same rounds, and
ratios are taken within a round.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

Measurement = Callable[[], dict[str, float]]
"""Does something once and returns what it took, in seconds by name."""

LEAST_SECONDS = 0.1
"""Shorter work is repeated in a round until it has taken as long."""

MATMUL_SIZE = 1024
"""Rows and columns of the matrices whose product tells what the machine can do."""

K = TypeVar("K", bound=Hashable)


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def timed(name: str, work: Callable[[], object]) -> Measurement:
    """The wall time of ``work`` under ``name``."""

    def measure() -> dict[str, float]:
        started = time.perf_counter()
        work()
        return {name: time.perf_counter() - started}

    return measure


def repeated(measure: Measurement) -> dict[str, float]:
    """The least of measuring again and again for ``LEAST_SECONDS``, once at least.

    What takes milliseconds is otherwise decided by what ran before it and by who else uses the machine.
    """
    started, seen = time.perf_counter(), [measure()]
    while time.perf_counter() - started < LEAST_SECONDS:
        seen.append(measure())
    return {name: min(seconds[name] for seconds in seen) for name in seen[0]}


def alternate(
    measurements: Mapping[K, Sequence[Measurement]], rounds: int, step: Callable[[], object]
) -> dict[tuple[K, str], list[float]]:
    """Makes all measurements in turn, ``rounds`` times after a first time that does not count.

    The first time builds kernels and starts threads.

    Args:
        measurements: what to measure, by whatever the caller tells it apart by.
        rounds: how often.
        step: called after every key, for a progress bar.

    Returns:
        Seconds of every round, by key and name.
    """
    seconds = defaultdict(list)
    for number in range(rounds + 1):
        for key, several in measurements.items():
            for measure in several:
                for name, value in repeated(measure).items():
                    if number:
                        seconds[key, name].append(value)
            step()
    return dict(seconds)


def matmul(dtype: torch.dtype) -> Measurement:
    """The time of a large square product: what the machine can do at its best, with the threads that torch has."""
    factors = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE, dtype=dtype)
    return timed("matmul", lambda: torch.mm(*factors))


def matmul_rate(seconds: Sequence[float]) -> Spread:
    """FLOP/s of ``matmul``."""
    return spread([2 * MATMUL_SIZE**3 / value for value in seconds])
