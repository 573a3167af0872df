"""Whose clock times a piece of work: the processor's, or the GPU's own."""

from collections.abc import Callable

import torch

from ttt.bench.timing import Measurement, timed
from ttt.config.errors import bad_value

Clock = Callable[[str, Callable[[], object]], Measurement]
"""``clock(name, work)`` is a measurement of ``work`` under ``name``."""


def choose_device(name: str) -> torch.device:
    """The device of ``device=name``; ``auto`` takes a GPU where there is one.

    Raises:
        UserError: no GPU is there.
    """
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise bad_value("device", name, "torch finds no CUDA device here; cpu always runs")
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def device_name(device: torch.device) -> str | None:
    """The GPU's name as its maker has it; None on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def clock_of(device: torch.device) -> Clock:
    """The clock of what computes on ``device``."""
    return timed_by_gpu if device.type == "cuda" else timed


def timed_by_gpu(name: str, work: Callable[[], object]) -> Measurement:
    """Seconds between two events on the GPU's stream, before and after ``work``.

    Where the processor is slower to launch kernels than the GPU to run them, that waiting is within.
    """

    def measure() -> dict[str, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return {name: begin.elapsed_time(end) / 1e3}

    return measure
