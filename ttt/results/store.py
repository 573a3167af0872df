"""All runs and benchmarks below a folder, as tables. Figures and claims read nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ttt.config.errors import UserError
from ttt.results.benchmarks import BENCHMARK_FILE, Benchmark, read_benchmark
from ttt.results.inner_loss import SCHEMA as INNER_LOSS_SCHEMA
from ttt.results.inner_loss import TEXT_COLUMNS as INNER_LOSS_TEXT
from ttt.results.inner_loss import read_inner_loss
from ttt.results.metrics import SCHEMA, TEXT_COLUMNS, Split, read_metrics
from ttt.results.record import RECORD_FILE, Record, RunFolder, read_record
from ttt.results.variants import METHOD, SETTING, settings_of, variants

RUN_COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("run_id", "string"),
    "name": ("name", "string"),
    "status": ("status", "string"),
    "error": ("error", "string"),
    "sweep": ("sweep", "string"),
    "parent": ("config.parent.run_id", "string"),
    "model": ("config.model.name", "string"),
    "backbone": ("config.backbone.name", "string"),
    "size": ("config.size.name", "string"),
    "ctx": ("config.ctx.length", "Int64"),
    "data": ("data.name", "string"),
    "seed": ("seed", "Int64"),
    "mini_batch_size": ("config.model.mini_batch_size", "Int64"),
    "learning_rate": ("config.recipe.learning_rate", "Float64"),
    "kernel": ("config.kernel.name", "string"),
    "parameters": ("parameters.total", "Int64"),
    "embedding_parameters": ("parameters.embedding", "Int64"),
    "training_flops": ("training_flops", "Float64"),
    "tokens_per_step": ("tokens_per_step", "Int64"),
    "steps": ("steps", "Int64"),
    "steps_planned": ("steps_planned", "Int64"),
    "tokens": ("tokens", "Int64"),
    "validation_loss": ("results.validation.loss", "Float64"),
    "validation_perplexity": ("results.validation.perplexity", "Float64"),
    "validation_sequences": ("results.validation.sequences", "Int64"),
    "device": ("device.name", "string"),
    "precision": ("device.precision", "string"),
    "seconds": ("timing.seconds", "Float64"),
    "tokens_per_second": ("timing.tokens_per_second", "Float64"),
    "commit": ("git.commit", "string"),
    "data_digest": ("data.digest", "string"),
}
"""Column of ``Results.runs`` -> its key in the record, and its dtype; missing where the record lacks the key."""

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
}
"""Further columns of ``Results.benchmarks``, the keys of ``ttt.results.benchmarks.Row``, and their dtypes."""


@dataclass(frozen=True)
class Results:
    """Every run and every benchmark below a folder.

    Attributes:
        runs: one row per run, indexed from 0: ``RUN_COLUMNS``; ``run_dir``, the run's folder; and ``variant``, the
            settings, as text, in which runs of the same ``SETTING`` and ``METHOD`` differ. Runs that agree in all
            of these differ only in seed.
        metrics: the rows of all ``metrics.parquet`` (columns of ``ttt.results.metrics``); text is categorical,
            ``position`` nullable.
        inner_loss: the rows of all ``inner_loss.parquet`` (columns of ``ttt.results.inner_loss``); text is categorical.
        left_out: folder of a duplicate run that is not in the tables -> folder of the same run that is.
        benchmarks: one row per measurement: ``BENCHMARK_COLUMNS`` and ``MEASUREMENT_COLUMNS``.
        settings: run_id -> every setting that affects what the run learns, see ``ttt.results.variants.settings_of``.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    inner_loss: pd.DataFrame
    left_out: dict[Path, Path]
    benchmarks: pd.DataFrame
    settings: dict[str, dict[str, str]]

    def select(self, split: Split, metric: str, by_position: bool = False) -> pd.DataFrame:
        """Return the finite values of one metric, in their order: run_id, step, position, value.

        Args:
            split: the split.
            metric: the metric's name.
            by_position: take the rows with a token index instead of the rows without one.
        """
        rows = self.metrics
        wanted = (rows["split"] == split) & (rows["metric"] == metric) & (rows["position"].notna() == by_position)
        finite = np.isfinite(rows["value"])
        return rows.loc[wanted & finite, ["run_id", "step", "position", "value"]].reset_index(drop=True)


def load_results(folder: Path) -> Results:
    """Read every run and benchmark below ``folder``, at any depth, sorted by path.

    A run without metrics yet has only its row in ``runs``. If several folders have the same run_id (the same
    configuration), the folder with the most steps is used.

    Raises:
        UserError: no such folder, or a file in it that no run or benchmark wrote.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds runs of ttt-train")
    records = {path.parent: read_record(path) for path in sorted(folder.rglob(RECORD_FILE))}
    longest: dict[str, Path] = {}
    for path in sorted(records, key=lambda path: records[path]["steps"]):
        longest[records[path]["run_id"]] = path
    counted = {path: record for path, record in records.items() if longest[record["run_id"]] == path}
    left_out = {path: longest[record["run_id"]] for path, record in records.items() if path not in counted}
    benchmarks = [read_benchmark(path) for path in sorted(folder.rglob(BENCHMARK_FILE))]
    settings = {record["run_id"]: settings_of(record) for record in counted.values()}
    runs = _runs(counted, list(settings.values()))
    return Results(runs, _metrics(counted), _inner_loss(counted), left_out, _benchmarks(benchmarks), settings)


def _runs(records: dict[Path, Record], settings: list[dict[str, str]]) -> pd.DataFrame:
    runs = pd.DataFrame(
        {
            column: pd.array([_lookup(record, key) for record in records.values()], dtype=dtype)  # type: ignore[call-overload]
            for column, (key, dtype) in RUN_COLUMNS.items()
        }
    )
    runs["run_dir"] = pd.array([str(path) for path in records], dtype="string")
    groups = list(runs[[*SETTING, *METHOD]].itertuples(index=False, name=None))
    runs["variant"] = pd.array(variants(groups, settings), dtype="string")
    return runs


def _lookup(record: Record | Benchmark, key: str) -> Any:
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _metrics(folders: Iterable[Path]) -> pd.DataFrame:
    tables = [read_metrics(path) for path in (RunFolder(folder).metrics for folder in folders) if path.exists()]
    metrics = _together(tables, SCHEMA).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return metrics.astype({"step": "int64"} | dict.fromkeys(TEXT_COLUMNS, "category"))


def _inner_loss(folders: Iterable[Path]) -> pd.DataFrame:
    paths = (RunFolder(folder).inner_loss for folder in folders)
    tables = [read_inner_loss(path) for path in paths if path.exists()]
    return _together(tables, INNER_LOSS_SCHEMA).to_pandas().astype(dict.fromkeys(INNER_LOSS_TEXT, "category"))


def _together(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()


def _benchmarks(benchmarks: Iterable[Benchmark]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        whole = {column: _lookup(benchmark, key) for column, (key, _) in BENCHMARK_COLUMNS.items()}
        # A value of the row, such as the dtype of a kernel, overrides the value of the whole benchmark.
        rows += [{**whole, **row} for row in benchmark["rows"]]
    dtypes = {column: dtype for column, (_, dtype) in BENCHMARK_COLUMNS.items()} | MEASUREMENT_COLUMNS
    return pd.DataFrame(
        {column: pd.array([row.get(column) for row in rows], dtype=dtype) for column, dtype in dtypes.items()}  # type: ignore[call-overload]
    )
