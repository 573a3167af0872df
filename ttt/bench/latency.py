"""Latency of whole models and of the Triton kernels alone: training, prefill and decoding of one token."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ttt.bench.clock import choose_device, device_name
from ttt.bench.columns import print_headings, print_line
from ttt.bench.devices import device_named
from ttt.bench.inner import HIDDEN
from ttt.bench.latency_kernels import MINI_BATCH_SIZE, kernel_tasks
from ttt.bench.latency_models import model_tasks, model_variants
from ttt.bench.latency_table import COLUMNS, NOTES
from ttt.bench.model import random_model
from ttt.bench.table import Line
from ttt.bench.timing import Spread, spread
from ttt.bench.turns import Outcome, Task, peak_bytes, take_turns
from ttt.config.bench import LatencyBenchConfig, Methods
from ttt.config.errors import bad_value
from ttt.config.schema import KernelConfig
from ttt.inner.loop import InnerLoop
from ttt.inner.models.registry import make_inner_model
from ttt.kernels.dispatch import KERNELS, choose_form
from ttt.results.benchmarks import BenchmarkLog, Row

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def bench_latency(config: LatencyBenchConfig, methods: Methods) -> Path:
    """Times models and kernels; returns the benchmark's file. What does not fit in memory has no rows in it.

    Args:
        config: the benchmark.
        methods: those of ``config.models`` at all of ``config.tokens``.

    Raises:
        UserError: a device, form or model that is not there, or a file that cannot be written.
    """
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    _refuse_what_cannot_be(config, methods, device)
    log = BenchmarkLog(Path(config.runs), "latency", asdict(config), config.threads, device_name(device))
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    place = device_name(device) or f"{log.machine['cpu']}, {threads}"
    print(f"{place}, torch {torch.__version__}, {config.dtype}; width {config.width}, {config.blocks} blocks\n")
    print_headings(COLUMNS)
    for tokens in config.tokens:
        for rows in _measured(list(_tasks(config, methods, tokens, device)), config, device):
            log.add(rows)
            print_line(COLUMNS, Line(rows[0]["measure"], {row["measure"]: row for row in rows}))
    print(f"\n{NOTES}")
    log.finish()
    return log.path


def _refuse_what_cannot_be(config: LatencyBenchConfig, methods: Methods, device: torch.device) -> None:
    """Builds everything once without memory, before anything is measured or written."""
    for form in config.kernels:
        if form not in KERNELS:
            raise bad_value("kernels", form, f"choose from {', '.join(KERNELS)}")
    with torch.device("meta"):
        for method in methods.values():
            for variant in model_variants(config, method):
                random_model(config, method, variant, torch.float32)
    if config.inner and device.type == "cuda":
        choose_form(KernelConfig("triton"), InnerLoop(make_inner_model("linear", config.width, (), "gelu", True)))


def _tasks(config: LatencyBenchConfig, methods: Methods, tokens: int, device: torch.device) -> Iterator[Task]:
    """Everything that is timed at one context."""
    for name in config.models:
        method = methods[name, tokens]
        for variant in model_variants(config, method):
            yield from model_tasks(config, name, method, variant, tokens)
    whole = tokens // MINI_BATCH_SIZE * MINI_BATCH_SIZE
    if config.inner and device.type == "cuda" and whole:
        for name in HIDDEN:
            yield from kernel_tasks(config, name, whole)


def _measured(tasks: list[Task], config: LatencyBenchConfig, device: torch.device) -> Iterator[list[Row]]:
    """The rows of each task that fits in memory, the time first."""

    def peak(task: Task) -> int | None:
        return peak_bytes(task, config.threads, device) if config.memory else None

    for task, outcome in take_turns(tasks, config.rounds, device, peak).items():
        yield rows_of(task, outcome, config.dtype, device_name(device))


def rows_of(task: Task, outcome: Outcome, dtype: str, gpu: str | None) -> list[Row]:
    """A task's time, memory, and what follows from them."""
    row = partial(task.setting.row, task.variant)

    def over(amount: float) -> Spread:
        return spread([amount / own for own in outcome.seconds])

    rows = [
        row(task.measure, spread(outcome.seconds), "s"),
        row(f"{task.measure}_tokens_per_second", over(task.tokens), "tokens/s"),
    ]
    if outcome.peak is not None:
        rows.append(row(f"{task.measure}_memory", spread([outcome.peak]), "B"))
    if task.moved is not None:
        rows.append(row(f"{task.measure}_bandwidth", over(task.moved), "B/s"))
        known = device_named(gpu or "")
        if known:
            bound = known.seconds(task.flops, task.moved, SHORT[dtype])
            rows.append(row(f"{task.measure}_of_bound", over(bound), "1"))
    return rows
