"""The rows of a benchmark's file, computed from samples: times, and quantities derived from them."""

from collections.abc import Iterator, Sequence

from ttt.bench.measurement import PLAIN, Measurement, Samples
from ttt.bench.timing import MATMUL_SIZE, Spread, spread
from ttt.config.gpus import gpu_named
from ttt.results.benchmarks import Row

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def rows_of_group(samples: dict[Measurement, Samples], dtype: str, gpu: str | None) -> Iterator[list[Row]]:
    """Yield the rows of each measurement of one group, the time first.

    Args:
        samples: results by measurement. If they include ``PLAIN``, all times are compared with its times; if they
            include ``matmul``, with its rate.
        dtype: of the computation.
        gpu: name of the GPU; None on a CPU.
    """
    plain = {
        m.measure: sample.seconds[m.measure] for m, sample in samples.items() if m.implementation == PLAIN and m.read
    }
    rate = next((_matmul_rate(sample).median for m, sample in samples.items() if m.measure == "matmul"), None)
    for measurement, sample in samples.items():
        if measurement.measure == "matmul":
            yield [_row(measurement, "matmul", _matmul_rate(sample), "FLOP/s")]
            continue
        rows = [_row(measurement, name, spread(seconds), "s") for name, seconds in sample.seconds.items()]
        if measurement.read:
            seconds = sample.seconds[measurement.measure]
            rows += _derived(measurement, seconds, plain.get(measurement.measure), rate)
            rows += _device_rows(measurement, sample, dtype, gpu)
        yield rows


def _derived(
    measurement: Measurement, seconds: Sequence[float], plain: Sequence[float] | None, rate: float | None
) -> Iterator[Row]:
    """Yield rate, speedup over plain, and the time of the matrix products at ``torch.mm``'s rate as a share."""
    name = measurement.measure
    if plain:
        speedup = spread([baseline / compared for baseline, compared in zip(plain, seconds, strict=True)])
        yield _row(measurement, f"{name}_speedup", speedup, "1")
    yield _row(measurement, f"{name}_tokens_per_second", _over(measurement.read, seconds), "tokens/s")
    if rate and measurement.flops:
        yield _row(measurement, f"{name}_share", _over(measurement.flops / rate, seconds), "1")


def _device_rows(measurement: Measurement, samples: Samples, dtype: str, gpu: str | None) -> Iterator[Row]:
    """Yield memory, bandwidth, and the data sheet's bound as a share of the time."""
    name, seconds = measurement.measure, samples.seconds[measurement.measure]
    if samples.peak is not None:
        memory = "peak_memory" if name == "forward_backward" else f"{name}_memory"
        yield _row(measurement, memory, spread([samples.peak]), "B")
    if measurement.moved is not None:
        yield _row(measurement, f"{name}_bandwidth", _over(measurement.moved, seconds), "B/s")
        known = gpu_named(gpu or "")
        if known:
            bound = known.seconds(measurement.flops, measurement.moved, SHORT[dtype])
            yield _row(measurement, f"{name}_of_bound", _over(bound, seconds), "1")


def _row(measurement: Measurement, measure: str, values: Spread, unit: str) -> Row:
    workload, implementation = measurement.workload, measurement.implementation
    return {
        "model": workload.model,
        "backbone": workload.backbone,
        "form": implementation.kernel if implementation else None,
        "checkpoint_group": implementation.checkpoint_group if implementation else None,
        "tokens": workload.tokens,
        "mini_batch_size": workload.mini_batch_size,
        "batch": workload.batch,
        "measure": measure,
        "value": values.median,
        "low": values.low,
        "high": values.high,
        "unit": unit,
    }


def _over(amount: float, seconds: Sequence[float]) -> Spread:
    return spread([amount / time for time in seconds])


def _matmul_rate(samples: Samples) -> Spread:
    """Return the FLOP/s of ``matmul``."""
    return _over(2 * MATMUL_SIZE**3, samples.seconds["matmul"])
