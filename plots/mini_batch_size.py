"""The mini-batch size b: what a smaller one gains in perplexity, and what it costs in time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ttt.results.variants import METHOD, SETTING

from .panels import (
    RUN_COLUMNS,
    band,
    caption,
    legend,
    lines,
    over_seeds,
    plain_log_ticks,
    powers_of_two,
    seeds_sentence,
)
from .registry import Figure
from .style import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results

PANEL_WIDTH, HEIGHT = 2.9, 3.0
"""Inches."""

PERPLEXITY, TOTAL = "perplexity", "W + z"

TIMES = {
    TOTAL: Look("Time for both", "#000000", (5, 1.5, 1, 1.5), "^"),
    "W": Look("Time for W", "#0072B2", (), "o"),
    "z": Look("Time for z", "#D55E00", (6, 1.5), "s"),
}
"""Measure -> look; W is each mini-batch's gradients and update, z the outputs."""

OWN_SETTING = re.compile(r"model\.mini_batch_size=\d+(?:, )?|, model\.mini_batch_size=\d+$")
"""What tells the points of a line apart, in the text of ``Results.runs["variant"]``."""

BENCHMARK_COLUMNS = ["benchmark_id", "cpu", "threads", "width", "heads", "dtype", "rounds", "tokens", "batch"]


def table(results: Results) -> DataFrame:
    """One row a point: ``mini_batch_size``, ``measure`` and ``value``, with ``low`` and ``high`` of times.

    Perplexities come from finished runs of TTT-Linear that differ in nothing but b and seed; times from the newest
    benchmark that timed W and z apart at several b. Without times the table has no rows.
    """
    import pandas as pd

    times = _times(results.benchmarks)
    return pd.concat([_perplexities(results.runs), times], ignore_index=True) if len(times) else times


def draw(table: DataFrame) -> Canvas:
    """Time on the right, perplexity on the left where there is any; b on a logarithmic axis."""
    from matplotlib.figure import Figure as Canvas

    quality, times = table[table["measure"] == PERPLEXITY], table[table["measure"] != PERPLEXITY]
    columns = 1 + (len(quality) > 0)
    canvas = Canvas(figsize=(max(PANEL_WIDTH * columns, 3.4), HEIGHT), layout="constrained")
    *left, right = canvas.subplots(1, columns, squeeze=False).ravel()
    for axes in left:
        _draw_quality(axes, quality)
    _draw_times(right, times)
    legend(canvas)
    caption(canvas, *_quality_sentences(quality), *_time_sentences(times))
    return canvas


def _draw_quality(axes: Axes, quality: DataFrame) -> None:
    axes.set_xscale("log", base=2)
    for look, rows in lines(quality):
        line = over_seeds(rows, "mini_batch_size", "value")
        axes.fill_between(line.index, line["min"], line["max"], color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(line.index, line["mean"], **look.line, label=look.label)
    axes.set(xlabel="Mini-batch size b (tokens)", ylabel="Validation perplexity (per token)")
    powers_of_two(axes.xaxis, quality["mini_batch_size"].max())


def _draw_times(axes: Axes, times: DataFrame) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for measure, look in TIMES.items():
        line = times[times["measure"] == measure].sort_values("mini_batch_size")
        b, milliseconds = line["mini_batch_size"].astype(float), 1e3 * line[["low", "value", "high"]]
        axes.fill_between(b, milliseconds["low"], milliseconds["high"], color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(b, milliseconds["value"], **look.line, label=look.label)
    axes.set(xlabel="Mini-batch size b (tokens)", ylabel="Forward time (ms)")
    powers_of_two(axes.xaxis, times["mini_batch_size"].max())
    plain_log_ticks(axes.yaxis)


def _perplexities(runs: DataFrame) -> DataFrame:
    """The runs of the setting with the most mini-batch sizes; without rows where no line has two."""
    rows = runs[(runs["model"] == "ttt_linear") & (runs["status"] == "finished")].dropna(
        subset=["validation_perplexity", "mini_batch_size"]
    )
    rows = rows.assign(
        variant=[OWN_SETTING.sub("", variant) for variant in rows["variant"]],
        measure=PERPLEXITY,
        value=rows["validation_perplexity"].astype(float),
        unit="1",
    )
    sizes = rows.groupby([*SETTING, *METHOD, "variant"], observed=True)["mini_batch_size"].transform("nunique")
    rows, sizes = rows[sizes > 1], sizes[sizes > 1]
    if len(rows):
        best = rows.loc[sizes.astype(int).idxmax(), SETTING]
        rows = rows[(rows[SETTING] == best).all(axis=1)]
    return rows[[*RUN_COLUMNS, "mini_batch_size", "measure", "value", "unit"]]


def _times(benchmarks: DataFrame) -> DataFrame:
    """W, z and both, in seconds, of the newest benchmark and the length with the most mini-batch sizes."""
    import pandas as pd

    rows = benchmarks[(benchmarks["model"] == "linear") & benchmarks["measure"].isin(["W", "z"])]
    sizes = rows.groupby(["benchmark_id", "tokens"])["mini_batch_size"].transform("nunique")
    rows, sizes = rows[sizes > 1], sizes[sizes > 1]
    newest = rows["started"] == rows["started"].max()
    if len(rows):
        rows = rows[newest & (rows["tokens"] == rows.loc[sizes[newest].astype(int).idxmax(), "tokens"])]
    both = rows.groupby([*BENCHMARK_COLUMNS, "mini_batch_size", "unit"], as_index=False)[["value", "low", "high"]].sum()
    times = pd.concat([rows, both.assign(measure=TOTAL)], ignore_index=True)
    return times[[*BENCHMARK_COLUMNS, "mini_batch_size", "measure", "value", "low", "high", "unit"]].assign(run_id=pd.NA)
