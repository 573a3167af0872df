"""Training loss against tokens seen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ttt.analysis.comparison import RunRole, is_stopped, methods
from ttt.analysis.names import changed_names, setting_name
from ttt.results.metrics import VALIDATION_WHILE_TRAINING

from .panels import (
    ID_COLUMNS,
    band,
    caption,
    labels,
    legend,
    lines,
    one_axis,
    over_seeds,
    panels,
    seeds_sentence,
    styles_of,
)
from .points import mark_diverged
from .registry import Figure
from .smoothing import window_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

    from .style import LineStyle

POINTS = 200
"""Approximate number of points of a long run: its steps are averaged in groups."""

WINDOW = 0.05
"""Width of the moving average as a share of the steps planned."""

SCALES = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1.0, ""))


def table(results: Results, window: float = WINDOW) -> DataFrame:
    """Return the training loss (nats/token) of each run against tokens seen, raw and as a centred moving average.

    The average is over the share ``window`` of the steps planned.

    If a run was validated while training, rows of its own have ``validation_loss`` in place of the other losses.

    The runs are standard methods at their best setting and the usual length; all runs if the user has chosen them, or
    if there are none of these.
    """
    import pandas as pd

    runs = _shown(results)[[*ID_COLUMNS, "status", "steps_planned", "tokens_per_step", "role"]]
    rows = results.select("train", "loss").merge(runs, on="run_id")
    group = (rows["steps_planned"] / POINTS).clip(lower=1).round().astype(int)
    rows["step"] = (((rows["step"] - 1) // group + 1) * group).clip(upper=rows["steps_planned"])
    rows["tokens"] = rows["step"] * rows["tokens_per_step"]
    keys = [*runs.columns, "step", "tokens"]
    points = rows.groupby(keys, as_index=False, observed=True, dropna=False).agg(loss=("value", "mean"))
    points["smoothed"] = math.nan
    for _, run in points.groupby("run_id", observed=True):
        steps, width = run["step"].to_numpy(float), window * run["steps_planned"].iloc[0]
        points.loc[run.index, "smoothed"] = window_means(steps, run["loss"].to_numpy(), steps, width)
    validated = _validated(results).merge(runs, on="run_id")
    validated["tokens"] = validated["step"] * validated["tokens_per_step"]
    return pd.concat([points, validated], ignore_index=True) if len(validated) else points


def draw(table: DataFrame, window: float = WINDOW) -> Canvas:
    """Draw one line per method: the moving average, and faintly the raw loss. The steep first steps are cropped."""
    scale, word = token_scale(table)
    canvas, parts = panels(table)
    styles = styles_of(table)
    for axes, part in parts:
        for number, (style, all_rows) in enumerate(lines(part, styles)):
            rows = all_rows.dropna(subset=["loss"])
            plain, line = over_seeds(rows, "tokens", "loss"), over_seeds(rows, "tokens", "smoothed")
            axes.plot(plain.index / scale, plain["mean"], color=style.colour, alpha=0.3, linewidth=0.4, rasterized=True)
            line.index /= scale
            band(axes, line, style, number)
            if "validation_loss" in table:
                _draw_validations(axes, all_rows.dropna(subset=["validation_loss"]), scale, style)
            last = rows.groupby("run_id", observed=True)[["tokens", "role"]].last()
            mark_diverged(axes, last.assign(tokens=last["tokens"] / scale), "tokens", style)
        axes.set_ylim(*settled(table if one_axis(table) else part))
    labels(canvas, f"Training tokens ({word})", "Training loss (nats/token)")
    legend(canvas)
    caption(
        canvas,
        f"Moving average over {100 * window:.3g}% of the steps; faint: without it." if window else "",
        seeds_sentence(table),
    )
    return canvas


def _validated(results: Results) -> DataFrame:
    rows = results.select("validation", VALIDATION_WHILE_TRAINING).rename(columns={"value": "validation_loss"})
    return rows[["run_id", "step", "validation_loss"]]


def _draw_validations(axes: Axes, rows: DataFrame, scale: float, style: LineStyle) -> None:
    """Draw the mean validation loss of all seeds as circles."""
    if len(rows):
        mean = over_seeds(rows, "tokens", "validation_loss")["mean"]
        circles: dict[str, Any] = {"marker": "o", "markersize": 3, "markerfacecolor": "none", "linestyle": ""}
        axes.plot(mean.index / scale, mean, color=style.colour, **circles)
        # One legend entry for all methods: the legend already has their colours.
        axes.plot([], [], color="0.4", label="validation", **circles)


def _shown(results: Results) -> DataFrame:
    standard = methods(results)
    shown = standard[~standard["role"].isin([RunRole.OTHER_SETTING, RunRole.OTHER_LENGTH, RunRole.STOPPED])]
    # A run without an evaluation has a curve.
    shown = shown.assign(role=shown["role"].where(shown["role"] == RunRole.DIVERGED, RunRole.DRAWN.value))
    everything = results.chosen or shown.empty
    return results.runs.assign(role="", changed=_with_steps(results)) if everything else shown


def _with_steps(results: Results) -> list[str]:
    """Return ``changed_names``, with the steps of runs that were stopped early: they are no seeds of whole runs."""
    stopped = is_stopped(results.runs)
    words = results.runs["steps"].map(lambda steps: setting_name("steps", steps)).where(stopped, "")
    return [", ".join(filter(None, both)) for both in zip(changed_names(results), words, strict=True)]


def token_scale(table: DataFrame) -> tuple[float, str]:
    """Return the unit of the axis of ``tokens``, and its name."""
    return next((scale, word) for scale, word in SCALES if table["tokens"].max() >= scale / 2)


def settled(table: DataFrame) -> tuple[float, float]:
    """Return the limits of the loss axis: the range of the moving averages after the first steps, with a margin."""
    last = table.groupby("run_id", observed=True)["tokens"].transform("max")
    losses = table.loc[table["tokens"] >= WINDOW * last, "smoothed"]
    margin = 0.05 * (losses.max() - losses.min()) + 0.01
    return losses.min() - margin, losses.max() + margin


def smoothed_over(window: float) -> Figure:
    """Return the figure with another moving average: over the share ``window`` of the steps planned; 0: none."""
    return replace(FIGURE, table=partial(table, window=window), draw=partial(draw, window=window))


FIGURE = Figure(
    id="training",
    title="Training loss against tokens seen",
    paper="not in the paper",
    needs="a run that has started to train",
    give="ttt-train",
    table=table,
    draw=draw,
)
