"""Books: perplexity against training FLOPs at a short and a long context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import Figure
from .scaling import draw_scaling, scaling_table

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.results.store import Results

CONTEXTS = (2048, 32768)


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``."""
    return scaling_table(results, "books", CONTEXTS, finetuned=False)


FIGURE = Figure(
    id="books_scaling",
    title="Books: perplexity against training FLOPs",
    paper="Figure 11 (submission: Figure 4)",
    needs="finished runs of the methods, at several sizes to draw lines",
    give="ttt-sweep submit sweep=books_scaling scale=laptop slurm=local",
    table=table,
    draw=draw_scaling,
)
