"""Perplexity at the best context length of each size, with the context as a hyper-parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import METHOD

from .panels import (
    CAPTION_HEIGHT,
    caption,
    give_room,
    labels,
    legend,
    lines,
    plain_log_ticks,
    scientific_log_ticks,
    styles_of,
)
from .points import draw_points, drawn, mark_diverged, notes, of_data, over_seeds_of, perplexity_label, points, reported
from .registry import Figure
from .scaling import FLOPS_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

    from .style import LineStyle

WIDTH, HEIGHT = 4.6, 3.2
"""Inches."""


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``, and ``best``: at the best context of method and size.

    Contexts are chosen by validation.
    """
    rows = of_data(points(results), "books")
    if drawn(rows)["ctx"].nunique() < 2:
        return reported(results, rows.assign(best=False).iloc[:0])
    point = ["size", *METHOD]
    means = drawn(rows).groupby([*point, "ctx"], observed=True)["perplexity"].mean().reset_index()
    best = means.loc[means.groupby(point, observed=True)["perplexity"].idxmin(), [*point, "ctx"]]
    chosen = rows.merge(best, on=[*point, "ctx"], how="left", indicator=True)["_merge"] == "both"
    return reported(results, rows).assign(best=chosen.to_numpy() & (rows["role"] == RunRole.DRAWN).to_numpy())


def draw(table: DataFrame) -> Canvas:
    """Draw all contexts as small points, and a line through the best context of each size."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT + CAPTION_HEIGHT), layout="constrained")
    axes = canvas.subplots()
    axes.set(xscale="log", yscale="log")
    for style, rows in lines(table, styles_of(table)):
        _draw_method(axes, rows, style)
        mark_diverged(axes, rows, "flops", style)
    axes.set_title(f"{table['data'].iloc[0]}, contexts of {_contexts(table)} tokens")
    give_room(axes)
    scientific_log_ticks(axes.xaxis)
    plain_log_ticks(axes.yaxis)
    labels(canvas, FLOPS_LABEL, perplexity_label(table))
    legend(canvas)
    caption(canvas, "Large: the best context of each size, by validation.", *notes(table))
    return canvas


def _draw_method(axes: Axes, rows: DataFrame, style: LineStyle) -> None:
    every, best = over_seeds_of(drawn(rows), "flops"), over_seeds_of(rows[rows["best"]], "flops")
    faint = style.line | {"linestyle": "none", "markersize": 2.2, "alpha": 0.45, "markeredgewidth": 0.6}
    axes.plot(every.index, every["mean"], **faint)
    draw_points(axes, best, style)


def _contexts(table: DataFrame) -> str:
    return ", ".join(f"{ctx:,}" for ctx in sorted(drawn(table)["ctx"].unique()))


FIGURE = Figure(
    id="best_context",
    title="Perplexity against training FLOPs at the best context of each size",
    paper="not in the paper (submission: Figure 14)",
    needs="finished runs at several contexts",
    give="ttt-sweep submit sweep=books_complete scale=laptop slurm=local",
    table=table,
    draw=draw,
)
