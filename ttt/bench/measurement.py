"""The terms of the benchmarks: a workload, the implementation of its inner loop, and a measurement of both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ttt.bench.timing import MATMUL_SIZE
from ttt.config.bench import BenchConfig, CPUBenchConfig
from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.kernels.dispatch import KERNELS

BASELINE = "plain"
"""The kernel that others are compared with: mini-batch after mini-batch, in ordinary operators with autograd."""

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Build = Callable[[int], Mapping[str, Callable[[], object]]]
"""Maps a number of tokens to the functions to run, by measure. It can be pickled for another process."""


@dataclass(frozen=True)
class Implementation:
    """A kernel that computes the inner loop, and its ``checkpoint_group``."""

    kernel: str
    checkpoint_group: int | None

    @property
    def config(self) -> KernelConfig:
        """The configuration of the ``kernel`` group."""
        return KernelConfig("dual" if self.kernel == BASELINE else self.kernel, self.checkpoint_group)


PLAIN = Implementation(BASELINE, 0)


def implementations(config: BenchConfig) -> list[Implementation]:
    """Return every kernel with every ``checkpoint_group``; first the baseline, if others are compared with it.

    Raises:
        UserError: no such kernel.
    """
    baseline = [PLAIN] if isinstance(config, CPUBenchConfig) else []
    allowed = (*(implementation.kernel for implementation in baseline), *KERNELS)
    for kernel in config.kernels:
        if kernel not in allowed:
            raise bad_value("kernels", kernel, f"choose from {', '.join(allowed)}")
    kernels = [kernel for kernel in config.kernels if kernel != BASELINE]
    compared = [Implementation(kernel, group) for kernel in kernels for group in config.checkpoint_group]
    return list(dict.fromkeys([*baseline, *compared]))


@dataclass(frozen=True)
class Workload:
    """The computation that implementations are compared on, with the fields of ``Row``."""

    model: str
    tokens: int
    mini_batch_size: int | None
    batch: int
    backbone: str | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """One time to measure.

    Attributes:
        workload: the computation.
        implementation: of the inner loop; None where it does not matter.
        measure: name of the time: train, prefill, decode, inner_train, inner_forward, inner_decode, forward,
            forward_backward, split or matmul.
        build: returns the functions to run, ``measure`` among them, on torch's default device.
        read: tokens of all sequences read in that time; 0 if a rate has no meaning.
        repeats: repetitions within one run of the function, such as the tokens of ``decode``.
        moved: bytes from and to device memory; None where they are not counted.
        flops: FLOPs of matrix products; 0 where they are not counted.
        times_itself: the function returns the seconds of its parts by name.
    """

    workload: Workload
    implementation: Implementation | None
    measure: str
    build: Build
    read: int = 0
    repeats: int = 1
    moved: float | None = None
    flops: float = 0.0
    times_itself: bool = False

    def function(self, tokens: int) -> Callable[[], object]:
        """Return the function to run on sequences of ``tokens`` tokens."""
        return self.build(tokens)[self.measure]


@dataclass(frozen=True)
class Samples:
    """The results of a measurement that fits in memory.

    Attributes:
        seconds: of every round, by name.
        peak: bytes needed at most beyond inputs and parameters; None where that is not measured.
    """

    seconds: dict[str, list[float]]
    peak: int | None = None


def passes(
    workload: Workload, implementation: Implementation, build: Build, flops: float, backward: bool
) -> list[Measurement]:
    """Return the measurements of a forward pass of ``flops`` FLOPs, and of both passes if ``backward``.

    The backward pass has two matrix products for each one of the forward pass; recomputation is not counted.
    """
    read = workload.batch * workload.tokens
    measurements = [Measurement(workload, implementation, "forward", build, read, flops=flops)]
    if backward:
        measurements.append(Measurement(workload, implementation, "forward_backward", build, read, flops=3 * flops))
    return measurements


def matmul(workload: Workload, dtype: str) -> Measurement:
    """Return the measurement of a large square product: the machine's peak with torch's threads."""
    return Measurement(workload, None, "matmul", partial(_matmul, DTYPES[dtype]))


def _matmul(dtype: torch.dtype, _: int) -> dict[str, Callable[[], object]]:
    factors = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE, dtype=dtype)
    return {"matmul": lambda: torch.mm(*factors)}
