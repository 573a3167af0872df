"""The table ``metrics.parquet``: metrics of a run, one row per number.

| column   | type   | meaning                                                                       |
|----------|--------|-------------------------------------------------------------------------------|
| run_id   | string |                                                                               |
| split    | string | train, validation or test; all: all of another text than the run's            |
| step     | int64  | optimiser steps done                                                          |
| position | int64  | token index from 1: tokens of context seen when predicting; null: not by token |
| metric   | string | loss, perplexity, learning_rate, ...                                          |
| value    | double |                                                                               |
| unit     | string | nats/token, 1, ...                                                            |

The file contains no times, so that equal runs write equal bytes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from ttt.results.parquet import read_table, write_table

Split = Literal["train", "validation", "test", "all"]

VALIDATION_WHILE_TRAINING = "loss_while_training"
"""Metric of the split ``validation`` that a run with ``trainer.eval_every`` has at some of its steps."""

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("step", pa.int64()),
        ("position", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
    ]
)
TEXT_COLUMNS = ["run_id", "split", "metric", "unit"]


class _Key(NamedTuple):
    """The key of a number; the rows of the file are sorted by it."""

    split: str
    metric: str
    step: int
    position: int | None


class MetricLog:
    """The metrics of one run, collected in memory and written as a whole.

    A number replaces an earlier one for the same split, metric, step and position, as in a repeated evaluation.

    Args:
        run_id: the run, for every row.
        path: the file that ``write`` replaces.
    """

    def __init__(self, run_id: str, path: Path) -> None:
        self.run_id = run_id
        self.path = path
        self._values: dict[_Key, tuple[float, str]] = {}

    @classmethod
    def resume(cls, path: Path, run_id: str, step: int | None, training_only: bool = False) -> "MetricLog":
        """Return a log with the rows in ``path`` up to ``step`` steps (None: all).

        With ``training_only``, evaluations other than those while training are left out.

        Write the log before each checkpoint, so that no row is lost.

        Raises:
            UserError: ``path`` is missing or not a table of metrics.
        """
        log = cls(run_id, path)
        rows = read_metrics(path).select(["split", "metric", "step", "position", "value", "unit"])
        for split, metric, row_step, position, value, unit in zip(*rows.to_pydict().values(), strict=True):
            kept = not training_only or split == "train" or metric == VALIDATION_WHILE_TRAINING
            if kept and (step is None or row_step <= step):
                log._values[_Key(split, metric, row_step, position)] = (value, unit)
        return log

    def add(self, split: Split, step: int, metric: str, value: float, unit: str, position: int | None = None) -> None:
        """Add one number."""
        self._values[_Key(split, metric, step, position)] = (float(value), unit)

    def add_many(
        self, split: Split, step: int, metric: str, values: Iterable[float], unit: str, positions: Iterable[int]
    ) -> None:
        """Add a metric by token index; ``values`` and ``positions`` have the same length."""
        for value, position in zip(values, positions, strict=True):
            self.add(split, step, metric, value, unit, int(position))

    def write(self) -> None:
        """Write all rows to the file, sorted by split, metric, step and position.

        Raises:
            UserError: the file cannot be written.
        """
        write_table(self.path, self._table())

    def _table(self) -> pa.Table:
        rows = sorted(self._values.items(), key=lambda row: row[0]._replace(position=row[0].position or 0))
        columns = {
            "run_id": [self.run_id] * len(rows),
            "split": [key.split for key, _ in rows],
            "step": [key.step for key, _ in rows],
            "position": [key.position for key, _ in rows],
            "metric": [key.metric for key, _ in rows],
            "value": [value for _, (value, _) in rows],
            "unit": [unit for _, (_, unit) in rows],
        }
        return pa.table(columns, schema=SCHEMA)


def read_metrics(path: Path) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Raises:
        UserError: the file is missing or is not a table of metrics.
    """
    return read_table(path, SCHEMA, TEXT_COLUMNS, "metrics")
