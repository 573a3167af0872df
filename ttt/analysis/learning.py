"""The runs whose course of training is compared, and the order of methods at half of the tokens and at the end."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from ttt.analysis.comparison import RunRole, methods
from ttt.analysis.labels import COMPARED_AT, method_label
from ttt.analysis.table_1 import BIG_STEPS, TABLE_1, table_1_runs

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

HALF, END = "half", "end"
"""Places in the training: half of the planned tokens, and all of them."""


class Swap(NamedTuple):
    """Two methods whose order at the end is not that at half of the tokens.

    ``apart`` is the larger of their distances at the two places, nats/token.
    """

    first: str
    second: str
    apart: float


class Orders(NamedTuple):
    """Names of methods, the lowest loss first, at both places, and the pairs that swap."""

    half: list[str]
    end: list[str]
    swaps: list[Swap]


def learners(results: Results) -> DataFrame:
    """Return the drawn runs of rows of Table 1 and of standard methods, trained from random weights.

    Columns are those of ``compare`` and ``row``, missing for methods that are no row, and ``name``: of the row or of
    the method. Rows 7 and 8 are also TTT-Linear (T) and (M); they are rows where one of ``BIG_STEPS`` was trained too.
    """
    import pandas as pd

    rows = table_1_runs(results)
    rows = rows[rows["role"] == RunRole.DRAWN]
    tables = rows[rows["row"].isin(BIG_STEPS)][COMPARED_AT].drop_duplicates()
    rows = rows.merge(tables, on=COMPARED_AT)
    others = methods(results)
    others = others[(others["role"] == RunRole.DRAWN) & (others["start"] == "")]
    others = others[~others["run_id"].isin(rows["run_id"])]
    labels = [
        method_label(model, backbone) for model, backbone in zip(others["model"], others["backbone"], strict=True)
    ]
    names = [f"row {row} ({TABLE_1[row].text})" for row in rows["row"]]
    return pd.concat([rows.assign(name=names), others.assign(name=labels)], ignore_index=True).astype({"row": "Int64"})


def orders(losses: DataFrame) -> Orders:
    """Return the order of methods at both places, by their means over the seeds that all of them have, if any.

    Args:
        losses: of runs at one data, size and context: ``name``, ``seed``, ``place`` and ``loss`` in nats/token. A run
            without both places is left out.
    """
    both = losses[losses["place"].isin([HALF, END])].pivot_table(
        index="seed", columns=["place", "name"], values="loss", observed=True
    )
    if not {HALF, END} <= set(both.columns.get_level_values(0)):
        return Orders([], [], [])
    shared = both.dropna()
    means = (shared if len(shared) else both).mean()
    half, end = means[HALF], means[END]
    swaps = [
        Swap(first, second, max(abs(half[first] - half[second]), abs(end[first] - end[second])))
        for first, second in combinations(end.sort_values().index, 2)
        if half[first] > half[second]
    ]
    return Orders(list(half.sort_values().index), list(end.sort_values().index), swaps)
