"""Training loss of the rows of Table 1 and of the methods, seed by seed: when a model learns, and what the order is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ttt.analysis.labels import COMPARED_AT, describe_scope
from ttt.analysis.learning import END, HALF, Orders, learners, orders

from .panels import MARK, caption, labels, legend, one_axis, over_seeds, panels
from .registry import Figure
from .smoothing import window_means
from .style import PAPER, LineStyle, legend_order, method_styles
from .training import WINDOW, settled, token_scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

    from .style import Method

POINTS = 64
"""Number of points of a run, even, so that one is at half of its steps."""

WIDTH, HEIGHT = 6.0, 1.2
"""Inches: the least width, and what a single panel is higher than one of several."""

MOST_SWAPS = 3
"""The caption names so many pairs of a panel that swap; of more it has the number."""

COLUMNS = ["run_id", *COMPARED_AT, "model", "backbone", "row", "name", "seed", "parameters", "copies"]

ROW_STYLES: dict[int, tuple[str, tuple[float, ...], str]] = {
    1: ("#999999", (1, 1), "v"),
    2: ("#CC79A7", (3, 1, 1, 1), "v"),
    3: ("#A01A58", (1, 2), "P"),
    4: ("#7F4F24", (1, 1), "X"),
    5: ("#8A8D0F", (4, 1.5), "p"),
    6: ("#5B4B8A", (4, 1.5, 1, 1.5), "<"),
}
"""Row of Table 1 -> colour, dashes and marker; rows 7 and 8 have those of TTT-Linear (T) and (M)."""

TTT_LINEAR = {7: PAPER["ttt_linear", "transformer"], 8: PAPER["ttt_linear", "mamba"]}


def table(results: Results) -> DataFrame:
    """Return ``COLUMNS``, ``tokens``, ``smoothed`` and ``place``: ``POINTS`` rows per run.

    ``smoothed`` is the training loss (nats/token), the mean over ``WINDOW`` of the steps. ``place`` is "half" at half
    of the planned tokens, "end" at the last, otherwise empty; the rows with a place come first.
    """
    import pandas as pd

    runs = learners(results)
    losses = dict(list(results.select("train", "loss").groupby("run_id", observed=True)))
    parts = []
    for run_id, planned, per_step in runs[["run_id", "steps_planned", "tokens_per_step"]].itertuples(index=False):
        if run_id not in losses:
            continue
        steps = np.unique(np.ceil(planned * np.arange(1, POINTS + 1) / POINTS))
        at, values = (losses[run_id][column].to_numpy(float) for column in ("step", "value"))
        smoothed = window_means(at, values, steps, max(WINDOW * planned, 1))
        place = np.where(steps == planned, END, np.where(steps == np.ceil(planned / 2), HALF, ""))
        columns = {"tokens": steps * per_step, "smoothed": smoothed, "place": place}
        parts.append(pd.DataFrame({"run_id": run_id} | columns).dropna(subset=["smoothed"]))
    if not parts:
        return runs[COLUMNS].iloc[:0]
    points = runs[COLUMNS].merge(pd.concat(parts), on="run_id")
    return points.sort_values("place", key=lambda place: place == "", kind="stable", ignore_index=True)


def draw(table: DataFrame) -> Canvas:
    """Draw the mean over seeds of each method, and the seeds as thin lines. The steep first steps are cropped."""
    scale, word = token_scale(table)
    canvas, parts = panels(table)
    others = table.loc[table["row"].isna(), ["model", "backbone"]].drop_duplicates()
    styles = method_styles((*method, "", "") for method in others.itertuples(index=False, name=None))
    if len(parts) == 1:
        canvas.set_size_inches(max(canvas.get_figwidth(), WIDTH), canvas.get_figheight() + HEIGHT)
    for axes, part in parts:
        for number, (style, rows) in enumerate(_lines(part, styles)):
            _draw_line(axes, rows.assign(tokens=rows["tokens"] / scale), style, number)
        axes.set_ylim(*settled(table if one_axis(table) else part))
    labels(canvas, f"Training tokens ({word})", "Training loss (nats/token)")
    legend(canvas)
    caption(
        canvas,
        f"Mean over {WINDOW:.0%} of the steps. Thick: mean over seeds; thin: seeds.",
        order_sentence(table),
    )
    return canvas


def order_sentence(table: DataFrame) -> str:
    """Return whether methods stand in the same order at half of the tokens and at the end, panel by panel."""
    found = {
        describe_scope(part): orders(part.rename(columns={"smoothed": "loss"}))
        for _, part in table.groupby(COMPARED_AT, observed=True)
        if part["name"].nunique() > 1
    }
    swapped = {scope: _swaps(order) for scope, order in found.items() if order.swaps}
    if not any(order.end for order in found.values()):
        return ""
    if not swapped:
        return "Order at half of the tokens: the same as at the end."
    words = "; ".join(f"{scope}: {text}" for scope, text in swapped.items())
    rest = ", elsewhere as at the end" if len(swapped) < len(found) else ""
    return f"Order at half of the tokens{rest}; swapped from half to end: {words}."


def _swaps(order: Orders) -> str:
    if len(order.swaps) > MOST_SWAPS:
        number = len(order.end) * (len(order.end) - 1) // 2
        most = max(swap.apart for swap in order.swaps)
        return f"{len(order.swaps)} of {number} pairs, at most {most:.3f} nats apart"
    return ", ".join(
        f"{_short(swap.first)} and {_short(swap.second)} (at most {swap.apart:.3f} nats apart)" for swap in order.swaps
    )


def _short(name: str) -> str:
    """Return the name of a row of Table 1 without its text."""
    return name.partition(" (")[0] if name.startswith("row ") else name


def _lines(part: DataFrame, styles: Mapping[Method, LineStyle]) -> Iterator[tuple[LineStyle, DataFrame]]:
    """Yield the style and the rows of each row of Table 1, then of each method."""
    by_name = [rows.sort_values("tokens") for _, rows in part.groupby("name", observed=True)]
    rows_of_table = [rows for rows in by_name if rows["row"].notna().all()]
    for rows in sorted(rows_of_table, key=lambda rows: int(rows["row"].iloc[0])):
        number, name = int(rows["row"].iloc[0]), rows["name"].iloc[0].replace("W_0", "$W_0$")
        like = TTT_LINEAR.get(number)
        look = (like.colour, like.dashes, like.marker) if like else ROW_STYLES[number]
        yield LineStyle(name, *look, filled=number != 7), rows
    others = [rows for rows in by_name if rows["row"].isna().all()]
    for rows in sorted(others, key=lambda rows: legend_order(*_method(rows), "", "")):
        yield styles[(*_method(rows), "", "")], rows


def _method(rows: DataFrame) -> tuple[str, str]:
    return rows["model"].iloc[0], rows["backbone"].iloc[0]


def _draw_line(axes: Axes, rows: DataFrame, style: LineStyle, number: int) -> None:
    mean = over_seeds(rows, "tokens", "smoothed")["mean"]
    seeds = [run for _, run in rows.groupby("run_id", observed=True)]
    for run in seeds:
        if len(seeds) > 1:
            axes.plot(run["tokens"], run["smoothed"], color=style.colour, linewidth=0.5, alpha=0.6)
        if run["copies"].fillna(False).iloc[0]:
            last = run.iloc[-1]
            ring: dict[str, Any] = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "linestyle": "none"}
            axes.plot(last["tokens"], last["smoothed"], color=style.colour, clip_on=False, **ring)
            axes.plot([], [], color="0.4", label="copies from context at the end", gid=MARK, **ring)
    axes.plot(mean.index, mean, **style.line, label=style.label, markevery=(0.04 * number, 0.25), linewidth=1.5)


FIGURE = Figure(
    id="learning",
    title="Training loss of the rows of Table 1 and of the methods, seed by seed",
    paper="not in the paper",
    needs="finished runs of the methods or of rows of Table 1",
    give="ttt-sweep submit sweep=ablation scale=laptop slurm=local",
    table=table,
    draw=draw,
)
