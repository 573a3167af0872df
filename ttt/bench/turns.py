"""Measurements in turn, round after round, one at a time on the device; those that do not fit in memory are skipped.

The speed of a shared machine changes from minute to minute. Measurements to compare are therefore timed in the same
rounds, and ratios are taken within a round.
"""

import gc
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from tqdm import tqdm

from ttt.bench.measurement import Measurement, Samples
from ttt.bench.memory import peak_memory
from ttt.bench.timing import clock_of, repeated

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Substrings of out-of-memory errors that are raised as a plain RuntimeError (torch on CPU, CUDA, cuBLAS)."""

MEASURED_MEMORY = ("train", "prefill", "forward_backward")
"""Measures for which peak memory is recorded."""

V = TypeVar("V")


def take_turns(
    measurements: Sequence[Measurement], rounds: int, device: torch.device, peak: Callable[[Measurement], int | None]
) -> dict[Measurement, Samples]:
    """Measure peak memory, then ``rounds`` rounds of all times after a warm-up round.

    The warm-up builds kernels and starts threads. Inputs and parameters of a measurement are created for its turn and
    freed after it, so that only one measurement is in memory at a time. A measurement that does not fit is named on
    standard output and skipped from then on.

    Args:
        measurements: what to measure.
        rounds: number of rounds.
        device: where to compute.
        peak: measures the peak memory of a measurement.

    Returns:
        The measurements that fit, in their order.
    """
    with tqdm(total=len(measurements) * (rounds + 2), desc="measuring", leave=False, disable=None) as bar:
        fitting: dict[Measurement, Samples] = {}
        for measurement in measurements:
            attempted = _attempt(measurement, lambda measurement: Samples({}, peak(measurement)))
            bar.update()
            if attempted:
                fitting[measurement] = attempted
        for number in range(rounds + 1):
            for measurement in list(fitting):
                seconds = _attempt(measurement, lambda measurement: _turn(measurement, device))
                bar.update()
                if seconds is None:
                    del fitting[measurement]
                elif number:
                    for name, value in seconds.items():
                        fitting[measurement].seconds.setdefault(name, []).append(value)
    return fitting


def _attempt(measurement: Measurement, function: Callable[[Measurement], V]) -> V | None:
    """Return ``function(measurement)``, or None after a message if memory does not suffice."""
    try:
        return function(measurement)
    except (RuntimeError, MemoryError) as error:
        reason = _out_of_memory(error)
        if reason is None:
            raise
    # Outside the handler, because the exception there still references the tensors of the failed attempt.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    workload = measurement.workload
    name = f"{workload.model}, {measurement.measure}, tokens={workload.tokens}, B={workload.batch}"
    tqdm.write(f"{name}: {reason}; left out")
    return None


def _out_of_memory(error: Exception) -> str | None:
    """Return the message of an error that comes from too little memory; None for another error."""
    if isinstance(error, BrokenProcessPool):
        return "its process died, most likely for lack of memory"
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return "does not fit in memory" if typed or any(words in str(error) for words in OUT_OF_MEMORY) else None


def _ready(measurement: Measurement, device: torch.device) -> Callable[[], object]:
    with device:
        return measurement.function(measurement.workload.tokens)


def _turn(measurement: Measurement, device: torch.device) -> dict[str, float]:
    """Return the seconds of one turn, by name."""
    function = _ready(measurement, device)
    if measurement.times_itself:
        return repeated(function)  # type: ignore[arg-type]
    if device.type == "cuda":
        # The first allocation of each size stops the GPU and must not be timed.
        function()
    seconds = repeated(clock_of(device)(measurement.measure, function))
    return {name: value / measurement.repeats for name, value in seconds.items()}


def peak_bytes(measurement: Measurement, threads: int, device: torch.device) -> int | None:
    """Return the most bytes needed beyond inputs and parameters; None for measures other than ``MEASURED_MEMORY``.

    On a GPU torch's own count of its allocations; on a CPU resident memory, in a separate process.

    Raises:
        BrokenProcessPool: the process died, most likely for lack of memory.
    """
    if measurement.measure not in MEASURED_MEMORY:
        return None
    if device.type != "cuda":
        return peak_memory(measurement.function, measurement.workload.tokens, threads)
    function = _ready(measurement, device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    return torch.cuda.max_memory_allocated(device) - before
