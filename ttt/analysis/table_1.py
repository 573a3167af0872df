"""The rows of the paper's Table 1: their texts, the perplexities that the paper states, and their runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttt.analysis.comparison import compare
from ttt.analysis.names import setting_name
from ttt.config.label import Label, TableForm

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results


@dataclass(frozen=True)
class TableRow:
    """A row of Table 1; ``conf/ablation/`` has its settings.

    Attributes:
        text: the difference from the previous row, in words.
        stated: the perplexity in the paper's Table 1, at 125M on the Pile with a context of 2048.
    """

    text: str
    stated: float


TABLE_1: dict[int, TableRow] = {
    1: TableRow("linear attention, feature map, normaliser", 15.91),
    2: TableRow("without feature map and normaliser", 15.23),
    3: TableRow("= TTT layer of Theorem 1", 15.23),
    4: TableRow("+ learnable W_0", 15.27),
    5: TableRow("+ LN and residual in f", 14.05),
    6: TableRow("+ mini-batch b = 16", 12.35),
    7: TableRow("+ learnable eta and token scale", 11.99),
    8: TableRow("+ Mamba backbone", 11.09),
}
"""Number -> row."""

BIG_STEPS = (5, 6)
"""Rows with the largest steps: LN and residual, and the mini-batch."""

FIRST_TTT_ROW = 3
"""The rows before it are linear attention."""

STATED = "Table 1 of the paper: 125M, the Pile, context of 2,048"
"""The source of ``TableRow.stated``."""


def stated_step(row: int) -> float:
    """Return the paper's step in nats/token from the previous row to ``row``, 2 to 8."""
    return math.log(TABLE_1[row].stated / TABLE_1[row - 1].stated)


def table_1_runs(results: Results, form: TableForm = TableForm.RELEASED) -> DataFrame:
    """Return the runs that are rows of Table 1 in this form, with ``row`` and the columns of ``compare``.

    The first two rows, linear attention, belong to both forms. Runs of a changed size are compared with each other
    alone, and ``size`` names the change: ``w64, width = 32``.
    """
    labels = [results.labels[run_id] for run_id in results.runs["run_id"]]
    both = {number for number in TABLE_1 if number < FIRST_TTT_ROW}
    numbers = [label.row if label.form == form or label.row in both else None for label in labels]
    rows = results.runs.copy()
    rows["row"] = numbers
    rows["size"] = [_size_name(label) for label in labels]
    rows = rows.astype({"row": "Int64"})
    return compare(results, rows[rows["row"].notna() & (rows["start"] == "")], ["row"])


def _size_name(label: Label) -> str:
    changes = {key: label.departures[key] for key in sorted(label.departures_of("size"))}
    return ", ".join([label.size, *(setting_name(key, value) for key, value in changes.items())])
