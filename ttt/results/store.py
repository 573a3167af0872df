"""All runs below a folder as two tables, the only thing that figures read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ttt.config.errors import UserError
from ttt.results.metrics import SCHEMA, TEXT_COLUMNS, Split, read_metrics
from ttt.results.record import RECORD_FILE, Record, RunFolder, read_record
from ttt.results.variants import METHOD, SETTING, learned_settings, variants

RUN_COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("run_id", "string"),
    "name": ("name", "string"),
    "status": ("status", "string"),
    "sweep": ("sweep", "string"),
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
"""Column of ``Results.runs`` -> where the record holds it, and its dtype; missing where the record has none."""


@dataclass(frozen=True)
class Results:
    """Every run found.

    Attributes:
        runs: one row a run, indexed from 0: ``RUN_COLUMNS``; ``run_dir``, the run's folder; and ``variant``, the
            settings, as text, in which runs of the same ``SETTING`` and ``METHOD`` differ. Runs that agree in all
            of these are seeds of one another.
        metrics: the rows of all ``metrics.parquet`` (columns of ``ttt.results.metrics``); text is categorical,
            ``position`` nullable.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame

    def select(self, split: Split, metric: str, by_position: bool = False) -> pd.DataFrame:
        """The rows of one metric: run_id, step, position, value.

        Args:
            split: the split.
            metric: the metric's name.
            by_position: rows by token index instead of the rows without one.
        """
        rows = self.metrics
        wanted = (rows["split"] == split) & (rows["metric"] == metric) & (rows["position"].notna() == by_position)
        return rows.loc[wanted, ["run_id", "step", "position", "value"]].reset_index(drop=True)


def load_results(folder: Path) -> Results:
    """Every run below ``folder``, at any depth, sorted by path; a run without metrics yet has only its row of ``runs``.

    Raises:
        UserError: no such folder, a file that is not what a run writes, or two folders of the same run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds runs of ttt-train")
    found = [RunFolder(path.parent) for path in sorted(folder.rglob(RECORD_FILE))]
    records = [read_record(run.record) for run in found]
    _refuse_copies(found, records)
    return Results(_runs(found, records), _metrics(found))


def _refuse_copies(found: list[RunFolder], records: list[Record]) -> None:
    seen: dict[str, Path] = {}
    for run, record in zip(found, records, strict=True):
        first = seen.setdefault(record["run_id"], run.path)
        if first != run.path:
            raise UserError(f"{run.path}: the same run_id={record['run_id']} as {first}; move one of them away")


def _runs(found: list[RunFolder], records: list[Record]) -> pd.DataFrame:
    runs = pd.DataFrame(
        {
            column: pd.array([_lookup(record, key) for record in records], dtype=dtype)  # type: ignore[call-overload]
            for column, (key, dtype) in RUN_COLUMNS.items()
        }
    )
    runs["run_dir"] = pd.array([str(run.path) for run in found], dtype="string")
    groups = list(runs[[*SETTING, *METHOD]].itertuples(index=False, name=None))
    runs["variant"] = pd.array(variants(groups, [_settings(record) for record in records]), dtype="string")
    return runs


def _settings(record: Record) -> dict[str, str]:
    # A data set's content may follow installed versions: only its digest tells whether two runs learned the same text.
    return learned_settings(record["config"]) | {"data.digest": str(_lookup(record, "data.digest"))[:12]}


def _lookup(record: Record, key: str) -> Any:
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _metrics(found: list[RunFolder]) -> pd.DataFrame:
    tables = [read_metrics(run.metrics) for run in found if run.metrics.exists()]
    empty = SCHEMA.empty_table()
    table = pa.concat_tables(tables).unify_dictionaries() if tables else empty
    metrics = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return metrics.astype({"step": "int64"} | dict.fromkeys(TEXT_COLUMNS, "category"))
