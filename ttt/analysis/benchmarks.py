"""The rows of ``Results.benchmarks``, from the files of benchmarks."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ttt.analysis.run_rows import lookup
from ttt.results.benchmarks import Benchmark

BENCHMARK_COLUMNS: dict[str, tuple[str, str]] = {
    "benchmark_id": ("benchmark_id", "string"),
    "kind": ("kind", "string"),
    "started": ("started", "string"),
    "cpu": ("machine.cpu", "string"),
    "cores": ("machine.cores", "Int64"),
    "threads": ("machine.threads", "Int64"),
    "gpu": ("machine.gpu", "string"),
    "backbone": ("settings.backbone.name", "string"),
    "width": ("settings.width", "Int64"),
    "heads": ("settings.heads", "Int64"),
    "dtype": ("settings.dtype", "string"),
    "rounds": ("settings.rounds", "Int64"),
    "half_weights": ("settings.half_weights", "boolean"),
}
"""Column of ``Results.benchmarks`` -> its key in the benchmark's file, and its dtype."""

MEASUREMENT_COLUMNS = {
    "model": "string",
    "form": "string",
    "checkpoint_group": "Int64",
    "tokens": "Int64",
    "mini_batch_size": "Int64",
    "batch": "Int64",
    "measure": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "unit": "string",
    "kernel": "string",
    "target": "string",
    "head_dim": "Int64",
    "warps": "Int64",
    "stages": "Int64",
    "remeasured": "Int64",
}
"""Further columns of ``Results.benchmarks``, the keys of ``ttt.results.benchmarks.Row``, and their dtypes."""


def benchmarks_table(benchmarks: Iterable[Benchmark]) -> pd.DataFrame:
    """Return ``Results.benchmarks``."""
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        whole = {column: lookup(benchmark, key) for column, (key, _) in BENCHMARK_COLUMNS.items()}
        # A value of the row, such as the dtype of a kernel, overrides the value of the whole benchmark.
        rows += [{**whole, **row} for row in benchmark["rows"]]
    dtypes = {column: dtype for column, (_, dtype) in BENCHMARK_COLUMNS.items()} | MEASUREMENT_COLUMNS
    return pd.DataFrame(
        {column: pd.array([row.get(column) for row in rows], dtype=dtype) for column, dtype in dtypes.items()}  # type: ignore[call-overload]
    )
