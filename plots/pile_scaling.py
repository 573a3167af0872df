"""The Pile: perplexity against training FLOPs at a short and a long context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .points import Stated, drawn
from .registry import Figure
from .scaling import draw_scaling, scaling_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results

CONTEXTS = (2048, 8192)

STATED_IN: dict[str, Any] = {"data": "pile", "size": "125m", "ctx": 2048, "model": "ttt_linear", "backbone": "mamba"}
"""The setting of the last row of Table 1."""


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``."""
    return scaling_table(results, "pile", CONTEXTS, finetuned=False)


def draw(table: DataFrame) -> Canvas:
    """Draw one panel per context."""
    from ttt.results.ablation import STATED, TABLE_1

    rows = drawn(table)
    for column, value in STATED_IN.items():
        rows = rows[rows[column] == value]
    stated = [Stated(rows["flops"].mean(), TABLE_1[8].stated)] if len(rows) else []
    return draw_scaling(table, {STATED_IN["ctx"]: stated}, STATED)


FIGURE = Figure(
    id="pile_scaling",
    title="The Pile: perplexity against training FLOPs",
    paper="Figure 10 (submission: Figure 3)",
    needs="finished runs of the methods, at several sizes to draw lines",
    give="ttt-sweep submit sweep=pile_scaling scale=laptop slurm=local",
    table=table,
    draw=draw,
)
