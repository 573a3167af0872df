"""Table 1: from linear attention to TTT-Linear, row by row, as a table and as bars."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import COMPARED_AT
from ttt.analysis.table_1 import STATED, TABLE_1, table_1_runs

from .panels import caption
from .points import as_points, drawn, notes, perplexity_label, reported
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

WIDTH, ROW_HEIGHT, REST = 9.2, 0.27, 1.5
"""Inches."""

MEASURED_BARS: dict[str, Any] = {"color": "#0072B2", "height": 0.62}
STATED_BARS: dict[str, Any] = {"color": "white", "edgecolor": "0.25", "hatch": "////", "height": 0.62}

COLUMNS = {"": 0.0, "difference from the previous row": 0.05, "perplexity": 0.66, "step (nats)": 1.0}
"""Heading of a column of the table -> its horizontal position; the last column ends there."""


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``, ``row``, and the paper's number: ``stated``, ``source``.

    The runs are from the data, size and context with the most rows of Table 1.
    """
    rows = as_points(results, table_1_runs(results), "row")
    if len(rows):
        counts = drawn(rows).groupby(COMPARED_AT, observed=True)["row"].nunique().reset_index()
        rows = rows.merge(counts.loc[[counts["row"].idxmax()], COMPARED_AT], on=COMPARED_AT)
    stated = [TABLE_1[row].stated for row in rows["row"]]
    return reported(rows).assign(stated=stated, source=STATED).sort_values(["row", "seed"], ignore_index=True)


def draw(table: DataFrame) -> Canvas:
    """Draw one line per row of Table 1, with the measured perplexity and, in a separate panel, the paper's."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, ROW_HEIGHT * len(TABLE_1) + REST), layout="constrained")
    words, bars, paper = canvas.subplots(1, 3, width_ratios=(2.4, 1, 0.8), sharey=True)
    _write(words, table)
    _draw_measured(bars, table)
    paper.barh(list(TABLE_1), [row.stated for row in TABLE_1.values()], **STATED_BARS)
    for number, row in TABLE_1.items():
        paper.text(row.stated, number, f" {row.stated:.2f}", va="center", fontsize=7)
    paper.set_xlim(10, 17.6)
    paper.set_xlabel("Perplexity stated in the paper\n(axis from 10)")
    first = table.iloc[0]
    bars.set_title(f"measured: {first['data']}, size {first['size']},\ncontext of {first['ctx']:,} tokens")
    paper.set_title("stated: 125M, the Pile,\ncontext of 2,048 tokens")
    words.set_ylim(len(TABLE_1) + 0.5, 0.2)
    caption(
        canvas,
        f"Step: {first['split']} loss minus the loss of the previous row, mean and standard deviation over pairs of "
        "runs with the same seed and data.",
        *notes(table, "row"),
        f"Hatched: {STATED}; not measured here.",
    )
    return canvas


def _draw_measured(axes: Axes, table: DataFrame) -> None:
    rows = drawn(table).groupby("row")["perplexity"].agg(["mean", "min", "max"]).astype(float)
    spread = [rows["mean"] - rows["min"], rows["max"] - rows["mean"]]
    axes.barh(rows.index, rows["mean"], **MEASURED_BARS)
    axes.errorbar(rows["mean"], rows.index, xerr=spread, fmt="none", color="black", capsize=2, elinewidth=0.9)
    lowest = 0.9 * rows["min"].min()
    axes.set_xlim(lowest, rows["max"].max() + 0.08 * (rows["max"].max() - lowest))
    for row in sorted(set(table.loc[table["role"] == RunRole.DIVERGED, "row"])):
        axes.plot(0.97, row, "x", color="#D55E00", transform=axes.get_yaxis_transform(), markersize=6)
    axes.tick_params(left=False)
    axes.set_xlabel(f"{perplexity_label(table)}\n(axis from {lowest:.3g})")


def _write(axes: Axes, table: DataFrame) -> None:
    axes.set_axis_off()
    heading: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 7.5, "va": "center"}
    for (name, x), side in zip(COLUMNS.items(), ("left", "left", "center", "right"), strict=True):
        axes.text(x, 0.35, name, ha=side, fontweight="bold", **heading)
    shown, steps = drawn(table), paired_steps(table)
    for number, row in TABLE_1.items():
        perplexities = shown.loc[shown["row"] == number, "perplexity"].astype(float)
        measured = _mean_and_spread(perplexities.mean(), perplexities.std(), ".2f") if len(perplexities) else "not run"
        step = _mean_and_spread(*steps[number], "+.3f") if number in steps else ""
        cells = (str(number), _mathematical(row.text), measured, step)
        for x, cell, side in zip(COLUMNS.values(), cells, ("left", "left", "center", "right"), strict=True):
            axes.text(x, number, cell, ha=side, **heading)


def paired_steps(table: DataFrame) -> dict[int, tuple[float, float]]:
    """Return for each row the mean and standard deviation of its loss minus the previous row's (nats/token)."""
    losses = np.log(drawn(table).pivot_table(index="seed", columns="row", values="perplexity").astype(float))
    steps = {row: (losses[row] - losses[row - 1]).dropna() for row in losses if row - 1 in losses}
    return {int(row): (step.mean(), step.std()) for row, step in steps.items() if len(step)}


def _mean_and_spread(mean: float, spread: float, number_format: str) -> str:
    text = f"{mean:{number_format}}"
    return text if math.isnan(spread) else f"{text} ± {spread:{number_format.lstrip('+')}}"


def _mathematical(text: str) -> str:
    return text.replace("W_0", "$W_0$").replace("eta", r"$\eta$")


FIGURE = Figure(
    id="ablation",
    title="Table 1: from linear attention to TTT-Linear",
    paper="Table 1",
    needs="finished runs of rows of Table 1",
    give="ttt-sweep submit sweep=ablation scale=laptop slurm=local",
    table=table,
    draw=draw,
)
