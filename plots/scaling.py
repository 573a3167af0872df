"""Perplexity against training FLOPs, shared by the scaling figures: one panel per context, logarithmic axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .panels import (
    CAPTION_HEIGHT,
    LEAST_WIDTH,
    PANEL_WIDTH,
    caption,
    give_room,
    labels,
    legend,
    plain_log_ticks,
    scientific_log_ticks,
)
from .points import PERPLEXITY_LABEL, Stated, draw_lines, draw_stated, drawn, notes, of_data, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results

FLOPS_LABEL = "Training FLOPs"

PANEL_HEIGHT = 2.4
"""Inches."""

MOST_COLUMNS = 3


def scaling_table(results: Results, data: str, contexts: tuple[int, ...], finetuned: bool) -> DataFrame:
    """Return the runs on ``data``, or on its stand-in, at the contexts of the figure.

    Args:
        results: all runs.
        data: name of the paper's data.
        contexts: the paper's contexts. For other data, the same number of contexts: those with the most points.
        finetuned: include methods that start from another run's weights.
    """
    table = of_data(points(results), data)
    if not finetuned:
        table = table[table["variant"] == ""]
    chosen = _contexts(table, contexts if (table["data"] == data).any() else (), len(contexts))
    table = table[table["ctx"].isin(chosen)]
    return table if len(drawn(table)) else table.iloc[:0]


def draw_scaling(table: DataFrame, stated: dict[int, list[Stated]] | None = None, source: str = "") -> Canvas:
    """Draw one panel per context, with one line per method through its sizes.

    Args:
        table: of ``scaling_table``, not empty.
        stated: context -> the paper's numbers in its panel.
        source: their source, for the legend.
    """
    from matplotlib.figure import Figure as Canvas

    contexts = sorted(drawn(table)["ctx"].unique())
    columns = 2 if len(contexts) == 4 else min(len(contexts), MOST_COLUMNS)
    rows = math.ceil(len(contexts) / columns)
    size = max(PANEL_WIDTH * columns, LEAST_WIDTH), PANEL_HEIGHT * rows + CAPTION_HEIGHT
    canvas = Canvas(figsize=size, layout="constrained")
    grid = canvas.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for empty in grid[len(contexts) :]:
        empty.set_axis_off()
    for axes, ctx in zip(grid, contexts, strict=False):
        part = table[table["ctx"] == ctx]
        axes.set(xscale="log", yscale="log")
        draw_lines(axes, part, "flops")
        draw_stated(axes, (stated or {}).get(ctx, []), source)
        axes.set_title(f"{table['data'].iloc[0]}, context of {ctx:,} tokens")
    for axes in grid[: len(contexts)]:
        give_room(axes)
        scientific_log_ticks(axes.xaxis)
    plain_log_ticks(grid[0].yaxis)
    labels(canvas, FLOPS_LABEL, PERPLEXITY_LABEL)
    legend(canvas)
    caption(canvas, _sizes(table), *notes(table[table["ctx"].isin(contexts)]))
    return canvas


def _contexts(table: DataFrame, wanted: tuple[int, ...], most: int) -> list[int]:
    """Return the contexts of ``wanted`` that were run, or if there are none, the contexts with the most points."""
    cases = drawn(table).drop_duplicates(["ctx", "size", "model", "backbone", "variant"])
    counts = cases["ctx"].value_counts()
    by_points = sorted(counts.index, key=lambda ctx: (-counts[ctx], ctx))
    return [ctx for ctx in wanted if ctx in counts.index] or by_points[:most]


def _sizes(table: DataFrame) -> str:
    sizes = drawn(table).groupby("size")["flops"].min().sort_values().index
    of_parent = (
        " TF finetune's FLOPs include those of the run that it starts from." if (table["variant"] != "").any() else ""
    )
    return f"Sizes {', '.join(sizes)}, from left to right.{of_parent}"
