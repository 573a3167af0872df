"""Associative recall: the share of right answers against the size of the state and against the number of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import describe_scope
from ttt.analysis.recall import answering_runs
from ttt.config.errors import counted
from ttt.results.record import STATE_SIZE

from .panels import ID_COLUMNS, caption, legend, lines, span, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

    from .style import LineStyle

WIDTH, HEIGHT = 6.4, 3.3
"""Inches."""

AXES = {STATE_SIZE: "State (numbers in a sequence)", "pairs": "Pairs in a sequence"}
"""Column -> label of its panel's x axis."""


def table(results: Results) -> DataFrame:
    """Return one row per drawn run: ``ID_COLUMNS``, ``pairs``, ``state_size``, learning rate, split and accuracy."""
    rows = answering_runs(results)
    rows = rows[rows["role"] == RunRole.DRAWN]
    return rows[[*ID_COLUMNS, "pairs", STATE_SIZE, "learning_rate", "split", "accuracy"]]


def draw(table: DataFrame) -> Canvas:
    """Draw the means over seeds, with a bar from the lowest to the highest: by state size, and by number of pairs."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = dict(zip(AXES, canvas.subplots(1, len(AXES), sharey=True), strict=True))
    for column, axes in panels.items():
        for style, rows in lines(table, styles_of(table)):
            _draw_line(axes, rows, column, style)
        axes.set(xscale="log", xlabel=AXES[column], ylim=(0, 1.04))
        # The values that runs have: there are few, and not at round numbers.
        values = sorted(table[column].dropna().unique())
        axes.set_xticks(values, [f"{int(value):,}" for value in values])
        axes.minorticks_off()
    split = table["split"].iloc[0]
    panels[STATE_SIZE].set_ylabel(f"Right answers ({split}, share)")
    legend(canvas)
    seeds = table.groupby([*ID_COLUMNS[1:-2], "pairs", STATE_SIZE], dropna=False, observed=True)["seed"].nunique()
    caption(
        canvas,
        f"Multi-query associative recall, {describe_scope(table)}. Mean and range of "
        f"{counted(int(seeds.max()), 'seed')}{' at most' if seeds.nunique() > 1 else ''}; at the best learning rate by "
        f"validation loss. Left: {span(table['pairs'].min(), table['pairs'].max())} pairs.",
    )
    return canvas


def _draw_line(axes: Axes, rows: DataFrame, column: str, style: LineStyle) -> None:
    """Draw one method: a point for each x; of several numbers of pairs at one state size, a line for each."""
    others = "pairs" if column == STATE_SIZE else STATE_SIZE
    for number, (_, part) in enumerate(rows.groupby(others, dropna=False, observed=True)):
        points = part.dropna(subset=[column]).groupby(column)["accuracy"].agg(["mean", "min", "max"])
        if len(points):
            bars = points["mean"] - points["min"], points["max"] - points["mean"]
            label = style.label if number == 0 else "_nolegend_"
            axes.errorbar(points.index, points["mean"], bars, **style.line, label=label, capsize=1.8, elinewidth=0.8)


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
