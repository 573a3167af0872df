"""Perplexity against the training context length, one panel per size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .panels import caption, give_room, grid, labels, legend, plain_log_ticks, powers_of_two, styles_of
from .points import draw_lines, drawn, notes, of_data, perplexity_label, points, reported
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

PANEL_HEIGHT = 2.4
"""Inches."""


def table(results: Results) -> DataFrame:
    """Return one row per run of the sizes trained at several contexts: ``points.POINT_COLUMNS``."""
    rows = of_data(points(results), "books")
    contexts = drawn(rows).groupby("size")["ctx"].nunique()
    return reported(results, rows[rows["size"].isin(contexts[contexts > 1].index)])


def draw(table: DataFrame) -> Canvas:
    """Draw one line per method through its contexts, with a gap where it has none of a context of the figure."""
    sizes = list(drawn(table).groupby("size")["parameters"].min().sort_values().index)
    canvas, panels = grid(len(sizes), len(sizes), PANEL_HEIGHT)
    styles = styles_of(table)
    contexts = sorted(drawn(table)["ctx"].unique())
    for axes, name in zip(panels, sizes, strict=True):
        part = table[table["size"] == name].astype({"ctx": float})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        draw_lines(axes, part, styles, "ctx", all_x=contexts)
        axes.set_title(f"{table['data'].iloc[0]}, size {name}")
        give_room(axes)
        powers_of_two(axes.xaxis, part["ctx"].max(), step=1)
    plain_log_ticks(panels[0].yaxis)
    labels(canvas, "Context length (tokens)", perplexity_label(table))
    legend(canvas)
    caption(canvas, *notes(table))
    return canvas


FIGURE = Figure(
    id="context",
    title="Perplexity against context length",
    paper="Figure 16 (submission: Figure 12)",
    needs="finished runs of one size at several contexts",
    give="ttt-sweep submit sweep=books_complete scale=laptop slurm=local",
    table=table,
    draw=draw,
)
