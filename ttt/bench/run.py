"""A benchmark from start to end: check, measure, record, print."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from ttt.bench.inner import inner_groups
from ttt.bench.measurement import Measurement
from ttt.bench.models import latency_groups, model_groups
from ttt.bench.rows import rows_of_group
from ttt.bench.spikes import MOST_TIMES, Place, per_token, place_of, standing_out
from ttt.bench.table import KERNELS, LATENCY, Columns, Table, print_rows
from ttt.bench.timing import Spread
from ttt.bench.turns import peak_bytes, take_turns
from ttt.config.bench import BenchConfig, InnerBenchConfig, LatencyBenchConfig, Methods, ModelBenchConfig, recorded
from ttt.config.text_table import print_headings, wrapped
from ttt.models.device import choose_device
from ttt.models.memory import keep_freed_memory
from ttt.results.benchmarks import BenchmarkLog, Kind
from ttt.results.machine import Machine

CPU = torch.device("cpu")

Groups = Callable[[], Iterator[list[Measurement]]]
"""The measurements of a benchmark, in groups; the measurements of a group take turns."""


def bench_inner(config: InnerBenchConfig) -> Path:
    """Measure the inner loop; return the benchmark's file.

    Raises:
        UserError: a kernel or an inner model does not exist, or a file cannot be written.
    """
    return _run("inner", config, partial(inner_groups, config), KERNELS)


def bench_model(config: ModelBenchConfig, methods: Methods) -> Path:
    """Measure language models; return the benchmark's file.

    Args:
        config: the benchmark.
        methods: of each of ``config.models`` at each of ``config.tokens``.

    Raises:
        UserError: a kernel does not exist, a model cannot be built, or a file cannot be written.
    """
    return _run("model", config, partial(model_groups, config, methods), KERNELS)


def bench_latency(config: LatencyBenchConfig, methods: Methods) -> Path:
    """Measure the latency of models and kernels; return the benchmark's file.

    Args:
        config: the benchmark.
        methods: of each of ``config.models`` at each of ``config.tokens``.

    Raises:
        UserError: a device, kernel or model does not exist, or a file cannot be written.
    """
    device = choose_device(config.device, kinds=("cuda", "cpu"))
    return _run("latency", config, partial(latency_groups, config, methods, device), LATENCY, device)


def _run(kind: Kind, config: BenchConfig, groups: Groups, table: Table, device: torch.device = CPU) -> Path:
    torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()  # before the first tensors, as in training
    for _ in groups():
        # Invalid settings raise an error here, before anything is measured or written.
        pass
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    log = BenchmarkLog(Path(config.runs), kind, recorded(config), config.threads, gpu)
    print(wrapped(f"{_hardware(log.machine)}, torch {torch.__version__}, {_described(config)}"), end="\n\n")
    columns = table.columns(config.wide)
    print_headings(columns)
    rates: list[float] = []
    times: dict[Place, Spread] = {}
    for group in _in_turns(config, groups):
        measured = take_turns(group, config.rounds, device, partial(_peak, config, device))
        times |= {place_of(one): per_token(one, samples) for one, samples in measured.items() if one.read}
        rows = list(rows_of_group(measured, config.dtype, gpu))
        log.add([row for several in rows for row in several])
        for several in rows:
            print_rows(columns, several)
            rates += [row["value"] / 1e9 for row in several if row["measure"] == "matmul"]
    if kind == "latency":
        _measure_again(config, groups, times, log, columns, device)
    print(f"\n{_matmul_line(rates)}{table.notes}")
    log.finish()
    return log.path


def _measure_again(
    config: BenchConfig,
    groups: Groups,
    times: dict[Place, Spread],
    log: BenchmarkLog,
    columns: Columns,
    device: torch.device,
) -> None:
    """Measure the times that stand out again, see ``ttt.bench.spikes``; print and record which they are."""
    counts: Counter[Place] = Counter()
    for _ in range(MOST_TIMES):
        found = standing_out(times)
        counts.update(found.keys())
        for place, why in found.items():
            what = f"{place.workload.model}, {place.measure}, {place.workload.tokens:,} tokens"
            print(wrapped(f"measured again, because it stands out: {what}: {why}", below="  "))
        for group in groups() if found else ():
            chosen = [one for one in group if place_of(one) in found]
            for one, samples in take_turns(chosen, config.rounds, device, lambda _: None).items():
                place, new = place_of(one), per_token(one, samples)
                (rows,) = rows_of_group({one: samples}, config.dtype, log.machine["gpu"])
                shorter = new.median < times[place].median
                log.measured_again(rows, counts[place], shorter)
                times[place] = new if shorter else times[place]
                print_rows(columns, rows)


def _in_turns(config: BenchConfig, groups: Groups) -> Iterator[list[Measurement]]:
    """Yield the groups, or with ``turns=false`` every measurement by itself."""
    for group in groups():
        yield from [group] if getattr(config, "turns", True) else ([one] for one in group)


def _peak(config: BenchConfig, device: torch.device, measurement: Measurement) -> int | None:
    return peak_bytes(measurement, config.threads, device) if getattr(config, "memory", False) else None


def _hardware(machine: Machine) -> str:
    """Return the GPU, or the processor with its threads."""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {threads}"


def _described(config: BenchConfig) -> str:
    sizes = f"; width {config.width}, {config.blocks} blocks" if isinstance(config, LatencyBenchConfig) else ""
    return f"{config.dtype}{sizes}"


def _matmul_line(rates: list[float]) -> str:
    """Return the line with the rate of matrix products, GFLOP/s, over all workloads."""
    if not rates:
        return ""
    low, high = f"{min(rates):.0f}", f"{max(rates):.0f}"
    return f"torch.mm: {low if low == high else f'{low} to {high}'} GFLOP/s\n"
