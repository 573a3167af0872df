"""Perplexity by token index."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ttt.analysis.comparison import RunRole, compare, is_standard, longest_shared
from ttt.analysis.labels import COMPARED_AT, METHOD
from ttt.analysis.names import setting_name

from .intervals import half_widths, intervals_sentence
from .panels import (
    ID_COLUMNS,
    band,
    caption,
    labels,
    legend,
    lines,
    over_seeds,
    panels,
    plain_log_ticks,
    powers_of_two,
    seeds_sentence,
    span,
    styles_of,
)
from .points import perplexity_label
from .registry import Figure
from .smoothing import window_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results
    from ttt.config.label import Label
    from ttt.results.metrics import Split

    from .style import LineStyle


FIRST_INDEX = 8
"""First token index of the curves. Before it perplexity falls so steeply that the rest would look flat."""

POINTS_PER_OCTAVE = 4

BEHIND, APART = 1.15, 1.07
"""Places of the bars, in multiples of the last token index and of the place of the bar before."""

KEY = ["run_id", "step", "position"]


def table(results: Results) -> DataFrame:
    """Return loss (nats/token) and perplexity of each run's last evaluation, smoothed over token index.

    The ``split`` is test if all runs of the figure were evaluated on it at the same step, otherwise validation.

    Each point is the mean loss of all ``sequences`` over an octave of token index, from ``token_index`` / sqrt(2) to
    ``token_index`` * sqrt(2), cut off at the end of the context. ``token_index`` is the geometric mean of the averaged
    indexes, so that a curve that is straight in log(index) keeps its place.

    The runs are at the longest context of each size. Among the shapes of a method, the figure takes the one whose FLOPs
    per token are nearest to Mamba's; among learning rates, the best; among training lengths, the longest that two
    methods share.

    Runs that were judged on little text have ``half_width``, half of the 95% interval over documents of the loss of all
    their tokens (nats/token, see ``half_widths``), and ``judged_documents``.
    """
    import pandas as pd

    rows = _last_evaluation(results, "validation")
    tested = _last_evaluation(results, "test")
    evaluation = ["run_id", "step"]
    split: Split = "validation"
    if len(rows) and set(map(tuple, tested[evaluation].to_numpy())) == set(map(tuple, rows[evaluation].to_numpy())):
        rows, split = tested, "test"
    by_run = rows.groupby("run_id", observed=True)
    curves = [smoothed(run).assign(run_id=run_id) for run_id, run in by_run]
    runs = rows[[*ID_COLUMNS, "flops", "step", "steps_planned"]].drop_duplicates().assign(split=split)
    if known := half_widths(results, split, set(runs["run_id"])):
        ends = pd.DataFrame.from_dict(known, orient="index", columns=["half_width", "judged_documents"])
        runs = runs.join(ends, on="run_id")
    return runs.merge(pd.concat(curves), on="run_id") if curves else runs


def draw(table: DataFrame) -> Canvas:
    """Draw one line per method on logarithmic axes."""
    canvas, parts = panels(table)
    styles = styles_of(table)
    for axes, part in parts:
        axes.set(xscale="log", yscale="log")
        for number, (style, rows) in enumerate(lines(part, styles)):
            line = over_seeds(rows, "token_index", "loss").apply(np.exp)
            band(axes, line, style, number)
            if "half_width" in rows:
                end_bar(axes, line["mean"], float(rows["half_width"].mean()), style, number)
        powers_of_two(axes.xaxis, part["ctx"].max())
        plain_log_ticks(axes.yaxis)
    labels(canvas, "Token index in the window (tokens)", perplexity_label(table))
    legend(canvas)
    sequences, split = span(table["sequences"].min(), table["sequences"].max()), table["split"].iloc[0]
    caption(
        canvas,
        f"{sequences} windows of the {split} text; mean over an octave of token index.",
        seeds_sentence(table),
        bars_sentence(table),
        _unfinished_sentence(table),
    )
    return canvas


def end_bar(axes: Axes, perplexity: Series, half: float, style: LineStyle, number: int) -> None:
    """Draw behind the end of a line the interval of its loss, if it has one, twice ``half`` wide (nats/token)."""
    end = float(perplexity.iloc[-1])
    if np.isfinite(half):
        bars = [[end * (1 - np.exp(-half))], [end * (np.exp(half) - 1)]]
        place = perplexity.index[-1] * BEHIND * APART**number
        axes.errorbar([place], [end], bars, color=style.colour, linestyle="none", capsize=1.8, elinewidth=0.8)


def bars_sentence(table: DataFrame) -> str:
    """Return the sentence of a caption about the bars of ``end_bar``, or an empty text."""
    return intervals_sentence(table, "bars: 95% intervals")


def smoothed(run: DataFrame) -> DataFrame:
    """Return the loss of a run by token index, as described in ``table``, and its perplexity.

    Args:
        run: columns ``position``, ``sequences`` and ``loss``.
    """
    import pandas as pd

    octave, sequences = np.log2(run["position"].to_numpy(float)), run["sequences"].to_numpy()
    centres = np.arange(np.log2(FIRST_INDEX), octave.max(), 1 / POINTS_PER_OCTAVE)
    weight = window_means(octave, sequences, centres, width=1)
    token_index = 2 ** window_means(octave, octave, centres, width=1)
    loss = window_means(octave, sequences * run["loss"].to_numpy(float), centres, width=1) / weight
    return pd.DataFrame({"token_index": token_index, "sequences": weight, "loss": loss, "perplexity": np.exp(loss)})


def _unfinished_sentence(table: DataFrame) -> str:
    """Name the methods whose runs were evaluated before their last planned step, an unfair comparison."""
    methods = lines(table, styles_of(table))
    unfinished = [style.label for style, rows in methods if (rows["step"] < rows["steps_planned"]).any()]
    return f"Evaluated before the planned end of training: {', '.join(unfinished)}." if unfinished else ""


def _last_evaluation(results: Results, split: Split) -> DataFrame:
    """Return loss and sequences by position at the last step at which the runs of a method were evaluated."""
    losses = _by_position(results, split, "loss")
    losses = losses[losses["step"] == losses.groupby("run_id", observed=True)["step"].transform("max")]
    rows = losses.merge(_by_position(results, split, "sequences"), on=KEY)
    columns = [*ID_COLUMNS, "flops", "steps_planned"]
    rows = rows.merge(_shown(results, losses["run_id"].unique())[columns], on="run_id")
    # A seed that stopped earlier than the others of its line would raise the mean.
    line = rows.groupby([*COMPARED_AT, *METHOD], observed=True, dropna=False)
    return rows[rows["step"] == line["step"].transform("max")].copy()


def _by_position(results: Results, split: Split, metric: str) -> DataFrame:
    return results.select(split, metric, by_position=True).rename(columns={"value": metric})


def _shown(results: Results, evaluated: Collection[str]) -> DataFrame:
    """Return the runs of the figure among the runs that were evaluated by token index."""
    rows = results.runs[is_standard(results, "model") & results.runs["run_id"].isin(evaluated)]
    rows = rows[rows["ctx"] == rows.groupby(["data", "size"])["ctx"].transform("max")]
    rows = rows[_nearest_to_mamba(rows)]
    compared = compare(results, rows, length=longest_shared)
    compared = compared.assign(changed=[_shape(results.labels[run_id]) for run_id in compared["run_id"]])
    return compared[~compared["role"].isin([RunRole.OTHER_SETTING, RunRole.OTHER_LENGTH, RunRole.STOPPED])]


def _shape(label: Label) -> str:
    """Name the shape of a model that has another than the standard one."""
    return ", ".join(setting_name(key, label.departures[key]) for key in sorted(label.departures_of("size")))


def _nearest_to_mamba(rows: DataFrame) -> Series:
    """Mark the runs whose shape is, among the shapes of their method, nearest to Mamba's in FLOPs per token."""
    flops = (rows["training_flops"] / (rows["steps_planned"] * rows["tokens_per_step"])).astype(float)
    mamba = flops.where(rows["model"] == "mamba").groupby([rows[column] for column in COMPARED_AT]).transform("mean")
    distance = (flops - mamba).abs().fillna(0.0)
    of_method = distance.groupby([rows[column] for column in [*COMPARED_AT, *METHOD]])
    # Equal models differ only by rounding.
    return distance <= of_method.transform("min") + 1e-6 * flops


FIGURE = Figure(
    id="per_token",
    title="Perplexity by token index",
    paper="Figure 2 right (submission: Figure 5)",
    needs="runs with an evaluation by token index, as every finished run has",
    give="ttt-sweep submit sweep=per_token scale=laptop slurm=local",
    table=table,
    draw=draw,
)
