"""The inner loss of every token before and after its update, by layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ttt.analysis.comparison import is_stopped
from ttt.analysis.names import setting_name
from ttt.config.label import TRIED

from .panels import (
    CAPTION_HEIGHT,
    ID_COLUMNS,
    LEAST_WIDTH,
    LINE,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    band,
    caption,
    legend,
    over_seeds,
    plain_log_ticks,
    seeds_sentence,
    span,
)
from .registry import Figure
from .smoothing import window_means
from .style import LineStyle, method_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

WINDOW = 10
"""Number of positions averaged for one point."""

MOST_POINTS = 500
"""Approximate number of points in the line of a long sequence."""

MOST_COLUMNS = 4

LOG_FROM = 30
"""Use a log axis if a panel's highest loss exceeds its lowest by this factor, as when an inner loop diverges."""

SAME_BUT_SEED = ["size", "data", "ctx", *LINE, "mini_batch_size", "step", "split"]
"""Columns that are equal for runs that differ only in seed."""

LOSSES = {
    "loss_initial": LineStyle("under $W_0$", "#000000", (1, 1), ""),
    "loss_before": LineStyle("under $W_{t-1}$", "#D55E00", (6, 1.5), ""),
    "loss_after": LineStyle("under $W_t$", "#0072B2", (), ""),
}
"""Column -> style."""


def table(results: Results) -> DataFrame:
    """Return the three losses of each run's TTT layers, smoothed over ``position``, up to the first non-finite value.

    The split is validation, or test for a run that has only test.
    """
    import pandas as pd

    columns = [*ID_COLUMNS, "mini_batch_size"]
    runs = results.runs.assign(changed=_changed(results)).loc[~is_stopped(results.runs), columns]
    rows = results.select_inner_loss().replace(np.inf, np.nan).merge(runs, on="run_id")
    keys = [*columns, "split", "step", "layer", "sequences"]
    layers = rows.groupby(["run_id", "layer"], observed=True)
    curves = [_smoothed(layer).assign(**layer[keys].iloc[0]) for _, layer in layers]
    columns = [*keys, "position", *LOSSES]
    return pd.concat(curves, ignore_index=True)[columns].dropna(subset=[*LOSSES]) if curves else rows[columns]


def draw(table: DataFrame) -> Canvas:
    """Draw one block of panels for runs that differ only in seed, with one panel per layer."""
    from matplotlib.figure import Figure as Canvas

    runs = [seeds for _, seeds in table.groupby(SAME_BUT_SEED, observed=True, dropna=False)]
    columns = min(table["layer"].max(), MOST_COLUMNS)
    heights = [math.ceil(run["layer"].nunique() / columns) for run in runs]
    size = max(PANEL_WIDTH * columns, LEAST_WIDTH), PANEL_HEIGHT * sum(heights) + CAPTION_HEIGHT
    canvas = Canvas(figsize=size, layout="constrained")
    grid = canvas.subplots(sum(heights), columns, squeeze=False)
    for number, run in enumerate(runs):
        _draw_seeds(list(grid[sum(heights[:number]) : sum(heights[: number + 1])].flat), columns, run)
    legend(canvas)
    sequences, steps = (span(table[column].min(), table[column].max()) for column in ("sequences", "step"))
    splits = " and ".join(sorted(table["split"].unique(), reverse=True))
    caption(
        canvas,
        f"Squared error of token t under the weights before the sequence, before the token's update and after it: mean "
        f"over all heads and {sequences} windows of {splits} documents, after {steps} training steps; moving average "
        f"over {WINDOW} positions.",
        seeds_sentence(table, SAME_BUT_SEED),
    )
    return canvas


def _draw_seeds(grid: list[Axes], columns: int, seeds: DataFrame) -> None:
    layers = list(seeds.groupby("layer"))
    for empty in grid[len(layers) :]:
        empty.set_axis_off()
    for number, (axes, (layer, rows)) in enumerate(zip(grid, layers, strict=False)):
        for order, (column, style) in enumerate(LOSSES.items()):
            band(axes, over_seeds(rows, "position", column), style, order)
        losses = rows[[*LOSSES]]
        if losses.max().max() > LOG_FROM * losses.min().min():
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        axes.set_title(f"{_title(seeds)}\nlayer {layer}" if number == 0 else f"layer {layer}", loc="left")
        axes.set_ylabel("Inner loss\n(squared error per dimension)" if number % columns == 0 else "")
        axes.set_xlabel("Token index t (tokens)" if number + columns >= len(layers) else "")


def _title(seeds: DataFrame) -> str:
    import pandas as pd

    first = seeds.iloc[0]
    method = method_name(*first[LINE])
    b = "" if pd.isna(first["mini_batch_size"]) else f", b = {first['mini_batch_size']}"
    return f"{method}{b}, size {first['size']}" + (", test" if first["split"] == "test" else "")


def _changed(results: Results) -> list[str]:
    """Return for each run its settings of layer and size that are not standard, except b, which has a column."""
    texts = []
    for run_id in results.runs["run_id"]:
        label = results.labels[run_id]
        keys = sorted(label.departures.keys() - TRIED - {"model.mini_batch_size"})
        texts.append(", ".join(setting_name(key, label.departures[key]) for key in keys))
    return texts


def _smoothed(layer: DataFrame) -> DataFrame:
    """Average over windows of ``WINDOW`` positions, which are cut off at the ends."""
    import pandas as pd

    layer = layer.sort_values("position")
    positions = layer["position"].to_numpy(float)
    # The middle of an even number of positions lies between two positions.
    centres = np.arange(1.5, max(len(positions), 2), max(1, len(positions) // MOST_POINTS))
    means = {name: window_means(positions, layer[name].to_numpy(), centres, WINDOW) for name in LOSSES}
    return pd.DataFrame({"position": centres, **means})


FIGURE = Figure(
    id="inner_loss",
    title="Inner loss before and after each token's update, by layer",
    paper="Figure 14 (submission: Figure 7)",
    needs="a run of a TTT model that was probed",
    give="ttt-eval run=FOLDER probe=inner_loss",
    table=table,
    draw=draw,
)
