"""Books at all contexts: perplexity against training FLOPs, with the finetuned Transformer as a separate method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import Figure
from .scaling import draw_scaling, scaling_table

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.results.store import Results

CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``."""
    return scaling_table(results, "books", CONTEXTS, finetuned=True)


FIGURE = Figure(
    id="books_complete",
    title="Books at all contexts: perplexity against training FLOPs, with finetuning",
    paper="Figure 15 (submission: Figure 11)",
    needs="finished runs of the methods, at several contexts to draw several panels",
    give="ttt-sweep submit sweep=books_complete scale=laptop slurm=local",
    table=table,
    draw=draw_scaling,
)
