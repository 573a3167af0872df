"""Tasks that take turns, round after round, each with the device to itself; what does not fit in memory is left out."""

import gc
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import torch
from tqdm import tqdm

from ttt.bench.case import Setting, Variant
from ttt.bench.clock import clock_of
from ttt.bench.memory import Build, peak_memory
from ttt.bench.timing import repeated

OTHER_WANTS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What is said of too little memory by those whose error has no class of its own: torch on a CPU, CUDA and cuBLAS."""

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Task:
    """Something to time.

    Attributes:
        setting: what is worked on.
        variant: the form; None for a layer without an inner loop.
        measure: what takes the time: train, prefill, decode, inner_train, inner_forward, inner_decode.
        build: makes the work on ``setting.tokens`` tokens, on torch's default device.
        tokens: tokens that are read in the time that counts, of all sequences.
        times: repetitions of that within the work: a token of ``decode`` is one of many.
        moved: bytes from and to device memory; None where they are not counted.
        flops: FLOPs of matrix products, likewise.
    """

    setting: Setting
    variant: Variant | None
    measure: str
    build: Build
    tokens: int
    times: int = 1
    moved: float | None = None
    flops: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What is known of a task that fits in memory.

    Attributes:
        seconds: of every round.
        peak: bytes that it adds at most to its inputs and parameters; None where that is not measured.
    """

    seconds: list[float]
    peak: int | None


def take_turns(
    tasks: Sequence[Task], rounds: int, device: torch.device, peak: Callable[[Task], int | None]
) -> dict[Task, Outcome]:
    """Measures the memory of each task, then the time of all of them in turn, ``rounds`` times after one as a warm-up.

    A task's inputs and parameters are made for its turn and let go after it: in memory it is alone. One that does not
    fit is named in a line on standard output, and the rest goes on without it.

    Args:
        tasks: what to measure.
        rounds: how often.
        device: where.
        peak: measures the memory of a task.

    Returns:
        The tasks that fit, in their order.
    """
    with tqdm(total=len(tasks) * (rounds + 2), desc="latency", leave=False, disable=None) as bar:
        fitting: dict[Task, Outcome] = {}
        for task in tasks:
            attempted = _attempt(task, lambda task: Outcome([], peak(task)))
            bar.update()
            if attempted:
                fitting[task] = attempted
        for number in range(rounds + 1):
            for task in list(fitting):
                seconds = _attempt(task, lambda task: _turn(task, device))
                bar.update()
                if seconds is None:
                    del fitting[task]
                elif number:
                    fitting[task].seconds.append(seconds)
    return fitting


def _attempt(task: Task, work: Callable[[Task], V]) -> V | None:
    """What ``work`` gives; None, after a line that says so, where memory does not suffice."""
    try:
        return work(task)
    except (RuntimeError, MemoryError) as error:
        reason = _want_of_memory(error)
        if reason is None:
            raise
    # Only here nothing holds on to the tensors of what failed any more.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    setting = task.setting
    name = f"{setting.model}, {task.measure}, tokens={setting.tokens}, B={setting.batch}"
    tqdm.write(f"{name}: {reason}; left out")
    return None


def _want_of_memory(error: Exception) -> str | None:
    """What a user is told of an error that comes from too little memory; None for another error."""
    if isinstance(error, BrokenProcessPool):
        return "its process died, most likely for want of memory"
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return "does not fit in memory" if named or any(words in str(error) for words in OTHER_WANTS) else None


def _ready(task: Task, device: torch.device) -> Callable[[], object]:
    with device:
        return task.build(task.setting.tokens)


def _turn(task: Task, device: torch.device) -> float:
    """Seconds that the task takes."""
    work = _ready(task, device)
    if device.type == "cuda":
        # The allocator's first requests of these sizes stop the GPU, and are no part of the work.
        work()
    return repeated(clock_of(device)(task.measure, work))[task.measure] / task.times


def peak_bytes(task: Task, threads: int, device: torch.device) -> int | None:
    """Bytes that training or prefill adds at most to inputs and parameters; None of other measures.

    Torch's own count of its allocations on a GPU; on a CPU resident memory, in a process of its own.

    Raises:
        BrokenProcessPool: the process died, most likely for want of memory.
    """
    if task.measure not in ("train", "prefill"):
        return None
    if device.type != "cuda":
        return peak_memory(task.build, task.setting.tokens, threads)
    work = _ready(task, device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
