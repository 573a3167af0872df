"""A benchmark from beginning to end: measured, recorded as it goes, printed."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from ttt.bench import inner, model
from ttt.bench.case import Case
from ttt.bench.measure import measure_case
from ttt.bench.table import print_headings, print_lines, print_machine, print_matmul
from ttt.config.bench import CPUBenchConfig, InnerBenchConfig, Methods, ModelBenchConfig
from ttt.results.benchmarks import BenchmarkLog, Kind, Row


def bench_inner(config: InnerBenchConfig) -> Path:
    """Measures the inner loop; returns the benchmark's file.

    Raises:
        UserError: a form or an inner model that does not exist, or a file that cannot be written.
    """
    return _run("inner", config, list(inner.cases(config)))


def bench_model(config: ModelBenchConfig, methods: Methods) -> Path:
    """Measures language models; returns the benchmark's file.

    Args:
        config: the benchmark.
        methods: those of ``config.models`` at all of ``config.tokens``.

    Raises:
        UserError: a form that does not exist, a model that cannot be built, or a file that cannot be written.
    """
    return _run("model", config, list(model.cases(config, methods)), model.decode_rows(config, methods))


def _run(kind: Kind, config: CPUBenchConfig, cases: list[Case], more: Iterable[list[Row]] = ()) -> Path:
    """Measures ``cases``, then ``more``, whose rows are measured where they are asked for."""
    torch.set_num_threads(config.threads)
    _refuse_what_cannot_be(cases)
    log = BenchmarkLog(Path(config.runs), kind, asdict(config), config.threads)
    print_machine(log.machine, config)
    print_headings()
    rates = []
    for rows in _recorded(cases, more, config, log):
        print_lines(rows)
        rates += [row["value"] for row in rows if row["measure"] == "matmul"]
    print_matmul(rates)
    log.finish()
    return log.path


def _recorded(
    cases: list[Case], more: Iterable[list[Row]], config: CPUBenchConfig, log: BenchmarkLog
) -> Iterator[list[Row]]:
    for case in cases:
        yield measure_case(case, config, log.add)
    for rows in more:
        log.add(rows)
        yield rows


def _refuse_what_cannot_be(cases: list[Case]) -> None:
    """Builds everything once without memory, before anything is measured or written."""
    with torch.device("meta"):
        for case in cases:
            for variant in case.variants:
                case.build(variant, 1)
