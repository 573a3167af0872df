"""Perplexity against training FLOPs, on the Pile and on Books: one panel per context."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ttt.analysis.labels import METHOD
from ttt.analysis.table_1 import STATED, TABLE_1

from .panels import caption, give_room, grid, labels, legend, plain_log_ticks, scientific_log_ticks, styles_of
from .points import (
    Stated,
    base_names,
    draw_lines,
    draw_stated,
    drawn,
    notes,
    of_data,
    perplexity_label,
    points,
    reported,
)
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

FLOPS_LABEL = "Training FLOPs"

STATED_IN: dict[str, Any] = {"data": "pile", "size": "125m", "ctx": 2048, "model": "ttt_linear", "backbone": "mamba"}
"""The setting of the last row of Table 1."""

PANEL_HEIGHT = 2.4
"""Inches."""

MOST_COLUMNS = 3


def pile_table(results: Results) -> DataFrame:
    """Return the runs on the Pile. No other data stands in for it, or the figure would be ``books_scaling`` again."""
    table = scaling_table(results, "pile", (2048, 8192))
    return table[base_names(table) == "pile"]


def scaling_table(results: Results, data: str, contexts: tuple[int, ...], finetuned: bool = False) -> DataFrame:
    """Return the runs on ``data``, or on its stand-in, at the contexts of the figure: ``points.POINT_COLUMNS``.

    Args:
        results: all runs.
        data: name of the paper's data.
        contexts: the paper's contexts. For other data, the same number of contexts: those with the most points.
        finetuned: include methods that start from another run's weights.
    """
    table = of_data(points(results), data)
    if not finetuned:
        table = table[table["start"] == ""]
    chosen = _contexts(table, contexts if (base_names(table) == data).any() else (), len(contexts))
    table = table[table["ctx"].isin(chosen)]
    return reported(results, table if len(drawn(table)) else table.iloc[:0])


def draw(table: DataFrame) -> Canvas:
    """Draw one panel per context, with one line per method through its sizes, on logarithmic axes."""
    contexts = sorted(drawn(table)["ctx"].unique())
    columns = 2 if len(contexts) == 4 else min(len(contexts), MOST_COLUMNS)
    canvas, panels = grid(len(contexts), columns, PANEL_HEIGHT, sharex=True, sharey=len(contexts) == 1)
    styles = styles_of(table)
    for axes, ctx in zip(panels, contexts, strict=True):
        part = table[table["ctx"] == ctx]
        axes.set(xscale="log", yscale="log")
        draw_lines(axes, part, styles, "flops")
        draw_stated(axes, _stated(part), STATED)
        axes.set_title(f"{table['data'].iloc[0]}, context of {ctx:,} tokens")
    for axes in panels:
        give_room(axes)
        # Matplotlib hides the numbers of a shared axis but in the last row, which may have fewer panels.
        axes.tick_params(labelbottom=True)
        plain_log_ticks(axes.yaxis)
    scientific_log_ticks(panels[0].xaxis)
    labels(canvas, FLOPS_LABEL, perplexity_label(table))
    legend(canvas)
    caption(canvas, _sizes(table), *notes(table[table["ctx"].isin(contexts)]))
    return canvas


def _stated(part: DataFrame) -> list[Stated]:
    """Return the number of Table 1 that belongs to a run of this panel, if any."""
    rows = drawn(part).assign(data=base_names(drawn(part)))
    for column, value in STATED_IN.items():
        rows = rows[rows[column] == value]
    return [Stated(rows["flops"].mean(), TABLE_1[8].stated)] if len(rows) else []


def _contexts(table: DataFrame, preferred: tuple[int, ...], most: int) -> list[int]:
    """Return the contexts of ``preferred`` that were run, or if there are none, the contexts with the most points."""
    cases = drawn(table).drop_duplicates(["ctx", "size", *METHOD])
    counts = cases["ctx"].value_counts()
    by_points = sorted(counts.index, key=lambda ctx: (-counts[ctx], ctx))
    return [ctx for ctx in preferred if ctx in counts.index] or by_points[:most]


def _sizes(table: DataFrame) -> str:
    sizes = drawn(table).groupby("size")["flops"].min().sort_values().index
    of_parent = (
        " TF finetune's FLOPs include those of the run that it starts from." if (table["start"] != "").any() else ""
    )
    several = f"Sizes {', '.join(sizes)}, from left to right." if len(sizes) > 1 else f"Size {sizes[0]}."
    return several + of_parent


NEEDS = "finished runs of the methods, at several sizes to draw lines"

PILE = Figure(
    id="pile_scaling",
    title="The Pile: perplexity against training FLOPs",
    paper="Figure 10 (submission: Figure 3)",
    needs="finished runs on data=pile, at several sizes to draw lines",
    give="ttt-sweep submit sweep=pile_scaling slurm=CLUSTER",
    table=pile_table,
    draw=draw,
)

BOOKS = Figure(
    id="books_scaling",
    title="Books: perplexity against training FLOPs",
    paper="Figure 11 (submission: Figure 4)",
    needs=NEEDS,
    give="ttt-sweep submit sweep=books_scaling scale=laptop slurm=local",
    table=partial(scaling_table, data="books", contexts=(2048, 32768)),
    draw=draw,
)

BOOKS_COMPLETE = Figure(
    id="books_complete",
    title="Books at all contexts: perplexity against training FLOPs, with finetuning",
    paper="Figure 15 (submission: Figure 11)",
    needs="finished runs of the methods, at several contexts to draw several panels",
    give="ttt-sweep submit sweep=books_complete scale=laptop slurm=local",
    table=partial(scaling_table, data="books", contexts=(1024, 2048, 4096, 8192, 16384, 32768), finetuned=True),
    draw=draw,
)
