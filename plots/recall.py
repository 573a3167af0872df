"""Associative recall: the share of right answers against the size of the state and against the number of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import describe_scope
from ttt.analysis.recall import answering_runs
from ttt.config.errors import counted
from ttt.results.record import STATE_SIZE

from .panels import ID_COLUMNS, LINE, caption, legend, lines, scientific_log_ticks, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

    from .style import LineStyle

WIDTH, HEIGHT = 6.4, 3.3
"""Inches."""

AXES = {STATE_SIZE: "State (numbers in a sequence)", "pairs": "Pairs in a sequence"}
"""Column -> label of its panel's x axis."""

OTHER = {STATE_SIZE: "pairs", "pairs": "heads"}
"""Column of an axis -> the column that is equal for the runs of a line."""


def table(results: Results) -> DataFrame:
    """Return one row per drawn run: ``ID_COLUMNS``, ``pairs``, heads, state size, learning rate, split, accuracy."""
    rows = answering_runs(results)
    rows = rows[rows["role"] == RunRole.DRAWN]
    return rows[[*ID_COLUMNS, "pairs", "heads", STATE_SIZE, "learning_rate", "split", "accuracy"]]


def draw(table: DataFrame) -> Canvas:
    """Draw the means over seeds, with a bar from the lowest to the highest: by state size, and by number of pairs.

    Each panel has the runs in which its axis varies: those of one number of pairs, or of one number of heads.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = dict(zip(AXES, canvas.subplots(1, len(AXES), sharey=True), strict=True))
    parts = {column: _varied(table, column, OTHER[column]) for column in AXES}
    for column, axes in panels.items():
        for style, rows in lines(parts[column], styles_of(table)):
            _draw_line(axes, rows, column, style)
        axes.set(xscale="log", xlabel=AXES[column], ylim=(0, 1.04))
    scientific_log_ticks(panels[STATE_SIZE].xaxis)
    _name_ticks(panels["pairs"], parts["pairs"]["pairs"])
    split = table["split"].iloc[0]
    panels[STATE_SIZE].set_ylabel(f"Right answers ({split}, share)")
    legend(canvas)
    seeds = table.groupby([*ID_COLUMNS[1:-2], "pairs", STATE_SIZE], dropna=False, observed=True)["seed"].nunique()
    caption(
        canvas,
        f"Multi-query associative recall, {describe_scope(table)}. Mean and range of "
        f"{counted(int(seeds.max()), 'seed')}{' at most' if seeds.nunique() > 1 else ''}; at the best learning and "
        f"inner rates by validation loss. Left: {_span(parts[STATE_SIZE]['pairs'], 'pair')}; "
        f"right: {_span(parts['pairs']['heads'], 'head')}.",
    )
    return canvas


def _varied(table: DataFrame, column: str, other: str) -> DataFrame:
    """Return the rows of the values of ``other`` at which a method has several values of ``column``, or else all."""
    counts = table.groupby([*LINE, other], observed=True)[column].nunique()
    several = counts[counts > 1].index.get_level_values(other).unique()
    return table[table[other].isin(several)] if len(several) else table


def _draw_line(axes: Axes, rows: DataFrame, column: str, style: LineStyle) -> None:
    """Draw one method: a point for each x, and a line for each number of pairs or of heads."""
    for number, (_, part) in enumerate(rows.groupby(OTHER[column], observed=True)):
        points = part.dropna(subset=[column]).groupby(column)["accuracy"].agg(["mean", "min", "max"])
        if len(points):
            bars = points["mean"] - points["min"], points["max"] - points["mean"]
            label = style.label if number == 0 else "_nolegend_"
            axes.errorbar(points.index, points["mean"], bars, **style.line, label=label, capsize=1.8, elinewidth=0.8)


def _name_ticks(axes: Axes, values: Series) -> None:
    """Put a tick at each value that runs have: there are few, and not at round numbers."""
    ticks = sorted(values.dropna().unique())
    axes.set_xticks(ticks, [f"{int(value):,}" for value in ticks])
    axes.minorticks_off()


def _span(numbers: Series, noun: str) -> str:
    """Return ``4 heads`` or ``8 to 24 pairs``."""
    low, high = int(numbers.min()), int(numbers.max())
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"


FIGURE = Figure(
    id="recall",
    title="Associative recall: right answers against state size and number of pairs",
    paper="not in the paper",
    needs="finished runs with data=mqar",
    give="ttt-sweep submit sweep=mqar scale=laptop slurm=local",
    table=table,
    draw=draw,
    asks=True,
)
