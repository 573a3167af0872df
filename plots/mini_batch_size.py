"""Perplexity and forward time against the mini-batch size b."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole, mini_batch_sizes
from ttt.analysis.labels import COMPARED_AT, METHOD
from ttt.analysis.table_1 import STATED, TABLE_1
from ttt.config.errors import counted

from .intervals import ENDS, spread_of
from .panels import caption, legend, lines, plain_log_ticks, powers_of_two, styles_of
from .points import (
    POINT_COLUMNS,
    Stated,
    as_points,
    base_names,
    draw_stated,
    drawn,
    mark_diverged,
    notes,
    perplexity_label,
    reported,
)
from .registry import Figure
from .style import LineStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

PANEL_WIDTH, LEAST_WIDTH, HEIGHT = 3.0, 3.6, 2.9
"""Inches."""

X_LABEL = "Mini-batch size b (tokens)"

PERPLEXITY = "perplexity"

TIMES = {
    "total": LineStyle("Total", "#000000", (5, 1.5, 1, 1.5), "^"),
    "W": LineStyle("Time for W", "#D55E00", (1, 1), "D"),
    "z": LineStyle("Time for z", "#009E73", (6, 1.5), "s", filled=False),
}
"""Measure -> style. W: the gradients and the update of every mini-batch; z: the outputs; total: W + z."""

STATED_IN = {"data": "pile", "size": "125m", "ctx": 2048}
"""The setting of the last row of Table 1, TTT-Linear with b = 16."""

TIME_COLUMNS = ["benchmark_id", "cpu", "threads", "width", "heads", "dtype", "rounds", "tokens", "batch"]


def table(results: Results) -> DataFrame:
    """Return one row per point: ``mini_batch_size``, ``measure`` and ``value``, with ``low`` and ``high`` of times.

    Perplexities come from finished runs of TTT-Linear that differ only in b and seed; seconds from the newest
    benchmark that timed W and z in the dual form at several b. Either may be missing.
    """
    import pandas as pd

    return pd.concat([_perplexities(results), _times(results.benchmarks)], ignore_index=True)


def draw(table: DataFrame) -> Canvas:
    """Draw perplexity on the left and time on the right, where there are data."""
    from matplotlib.figure import Figure as Canvas

    is_quality = table["measure"] == PERPLEXITY
    panels = [(_draw_quality, table[is_quality]), (_draw_times, table[~is_quality])]
    panels = [(draw_panel, part) for draw_panel, part in panels if len(part)]
    canvas = Canvas(figsize=(max(PANEL_WIDTH * len(panels), LEAST_WIDTH), HEIGHT), layout="constrained")
    grid = canvas.subplots(1, len(panels), squeeze=False).ravel()
    sentences = [draw_panel(axes, part) for axes, (draw_panel, part) in zip(grid, panels, strict=True)]
    legend(canvas)
    caption(canvas, *sentences)
    return canvas


def _draw_quality(axes: Axes, quality: DataFrame) -> str:
    """Draw the panel and return its caption."""
    for style, rows in lines(quality, styles_of(quality)):
        line = spread_of(drawn(rows).groupby("mini_batch_size"), "value")
        _line(axes, style, line.rename(columns={"mean": "value", "min": "low", "max": "high"}))
        mark_diverged(axes, rows.astype({"mini_batch_size": float}), "mini_batch_size", style)
    first = quality.assign(data=base_names(quality)).iloc[0]
    if all(first[column] == value for column, value in STATED_IN.items()):
        draw_stated(axes, [Stated(16, TABLE_1[8].stated)], STATED)
    _axes(axes, quality, perplexity_label(quality))
    data, size, ctx = quality[COMPARED_AT].iloc[0]
    where = f"Perplexity: size {size}, context of {ctx:,} tokens, {data}."
    return " ".join(filter(None, [where, *notes(quality, "mini_batch_size")]))


def _draw_times(axes: Axes, times: DataFrame) -> str:
    """Draw the panel and return its caption."""
    axes.set_yscale("log")
    for measure, style in TIMES.items():
        line = times[times["measure"] == measure].set_index("mini_batch_size").sort_index()
        _line(axes, style, 1e3 * line[["value", "low", "high"]].astype(float))
    _axes(axes, times, "Forward time (ms)")
    plain_log_ticks(axes.yaxis)
    first = times.iloc[0]
    length = f"T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{first['tokens']:,}"
    return (
        f"Time: a TTT-Linear layer's inner loop in the dual form, width {first['width']}, "
        f"{counted(first['heads'], 'head')}, {length}, batch {first['batch']}, {first['dtype']}, "
        f"{counted(first['threads'], 'thread')} of {first['cpu']}; median and quartiles of {first['rounds']} rounds."
    )


def _axes(axes: Axes, part: DataFrame, y_label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set(xlabel=X_LABEL, ylabel=y_label)
    powers_of_two(axes.xaxis, part["mini_batch_size"].max())


def _line(axes: Axes, style: LineStyle, line: DataFrame) -> None:
    """Draw a line through ``value`` with a band from ``low`` to ``high``; the index is b."""
    b = line.index.to_numpy(float)
    axes.fill_between(b, line["low"], line["high"], color=style.colour, alpha=0.15, linewidth=0)
    axes.plot(b, line["value"], **style.line, label=style.label)


def _perplexities(results: Results) -> DataFrame:
    """Return the runs of the setting with the most mini-batch sizes, without methods that have only one size."""
    rows = as_points(results, mini_batch_sizes(results), "mini_batch_size")
    line = [*COMPARED_AT, *METHOD]
    sizes = drawn(rows).groupby(line, observed=True)["mini_batch_size"].nunique()
    rows = rows.merge(sizes[sizes > 1].rename("sizes").reset_index(), on=line)
    if len(rows):
        rows = _with_shared_seeds(
            rows.merge(rows.loc[[rows["sizes"].astype(int).idxmax()], COMPARED_AT], on=COMPARED_AT)
        )
    rows = reported(results, rows)
    rows = rows.assign(measure=PERPLEXITY, value=rows["perplexity"].astype(float), unit="1")
    ends = [column for column in ENDS if column in rows]
    return rows[[*POINT_COLUMNS, "mini_batch_size", "measure", "value", "unit", *ends]]


def _with_shared_seeds(rows: DataFrame) -> DataFrame:
    """Keep only the seeds that all points of a line share, if any: seeds differ as much as mini-batch sizes do."""
    for _, group in drawn(rows).groupby([*COMPARED_AT, *METHOD], observed=True):
        sizes = group.groupby("seed")["mini_batch_size"].nunique()
        shared = sizes.index[sizes == group["mini_batch_size"].nunique()]
        if len(shared):
            rows.loc[group.index[~group["seed"].isin(shared)], "role"] = RunRole.OTHER_SEED
    return rows


def _times(benchmarks: DataFrame) -> DataFrame:
    """Return the rows of the newest suitable benchmark, at the length with the most mini-batch sizes.

    Older benchmarks without ``total`` timed mini-batches in chunks of 64 tokens, which is not the paper's form.
    """
    rows = benchmarks[(benchmarks["model"] == "linear") & benchmarks["measure"].isin(list(TIMES))]
    sizes = rows[rows["measure"] == "total"].groupby(["started", "benchmark_id", "tokens"])["mini_batch_size"].nunique()
    several = sizes[sizes > 1].reset_index().sort_values(["started", "mini_batch_size", "tokens"])
    chosen = several.iloc[-1:][["benchmark_id", "tokens"]]
    rows = rows.merge(chosen, on=["benchmark_id", "tokens"])
    return rows[[*TIME_COLUMNS, "mini_batch_size", "measure", "value", "low", "high", "unit"]]


FIGURE = Figure(
    id="mini_batch_size",
    title="Perplexity and forward time against the mini-batch size",
    paper="Figure 7 (submission: Figure 9)",
    needs="a benchmark of the inner loop at several mini-batch sizes, or runs of TTT-Linear with several sizes",
    give="ttt-sweep submit sweep=mini_batch_size scale=laptop slurm=local; ttt-bench inner inner_model=linear "
    "kernels=plain width=2048 heads=32 backward=false mini_batch_size=1,2,4,8,16,32,64,128,256,512,1024,2048",
    table=table,
    draw=draw,
)
