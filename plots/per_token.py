"""Perplexity by token index: whether later tokens keep getting easier with more context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.results.variants import METHOD, SETTING

from .panels import (
    RUN_COLUMNS,
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
)
from .registry import Figure
from .smoothing import window_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results

FIRST_INDEX = 8
"""Where the curves begin: before it perplexity falls so steeply that it would hide the rest."""

POINTS_PER_OCTAVE = 4


def table(results: Results) -> DataFrame:
    """Validation loss (nats/token) and perplexity of each run's last evaluation, smoothed over token index.

    Each point is the mean loss of all ``sequences`` over an octave of token index, from ``token_index`` / sqrt(2) to
    ``token_index`` * sqrt(2); at the end of the context, over what is left of it. ``token_index`` is the geometric
    mean of the indexes averaged, so that a curve straight in log(index) keeps its place.
    """
    import pandas as pd

    rows = _last_evaluation(results)
    curves = [_smoothed(run).assign(run_id=run_id) for run_id, run in rows.groupby("run_id", observed=True)]
    runs = rows[[*RUN_COLUMNS, "step", "steps_planned"]].drop_duplicates()
    return runs.merge(pd.concat(curves), on="run_id") if curves else runs


def draw(table: DataFrame) -> Canvas:
    """Both axes logarithmic, one line a method."""
    import numpy as np

    canvas, parts = panels(table)
    for axes, part in parts:
        axes.set(xscale="log", yscale="log")
        for number, (look, rows) in enumerate(lines(part)):
            line = over_seeds(rows, "token_index", "loss").apply(np.exp)
            band(axes, line, look, number)
        powers_of_two(axes.xaxis, part["ctx"].max())
    plain_log_ticks(parts[0][0].yaxis)
    labels(canvas, "Token index (tokens of context)", "Validation perplexity (per token)")
    legend(canvas)
    sequences = span(table["sequences"].min(), table["sequences"].max())
    caption(
        canvas,
        f"Loss of {sequences} validation sequences, mean over an octave of token index.",
        seeds_sentence(table),
        _unfinished_sentence(table),
    )
    return canvas


def _smoothed(run: DataFrame) -> DataFrame:
    import numpy as np
    import pandas as pd

    octave, sequences = np.log2(run["position"].to_numpy(float)), run["sequences"].to_numpy()
    centres = np.arange(np.log2(FIRST_INDEX), octave.max(), 1 / POINTS_PER_OCTAVE)
    weight = window_means(octave, sequences, centres, width=1)
    loss = window_means(octave, sequences * run["loss"].to_numpy(), centres, width=1) / weight
    token_index = 2 ** window_means(octave, octave, centres, width=1)
    return pd.DataFrame({"token_index": token_index, "sequences": weight, "loss": loss, "perplexity": np.exp(loss)})


def _unfinished_sentence(table: DataFrame) -> str:
    """Names the methods whose runs were evaluated before their last planned step: they compare unfairly."""
    unfinished = [look.label for look, rows in lines(table) if (rows["step"] < rows["steps_planned"]).any()]
    return f"Evaluated before the planned end of training: {', '.join(unfinished)}." if unfinished else ""


def _last_evaluation(results: Results) -> DataFrame:
    """Loss and sequences by position at the last step at which a method's runs were evaluated."""
    losses = results.select("validation", "loss", by_position=True).rename(columns={"value": "loss"})
    sequences = results.select("validation", "sequences", by_position=True).rename(columns={"value": "sequences"})
    losses = losses[losses["step"] == losses.groupby("run_id", observed=True)["step"].transform("max")]
    rows = losses.merge(sequences, on=["run_id", "step", "position"])
    rows = rows.merge(results.runs[[*RUN_COLUMNS, "steps_planned"]], on="run_id")
    # A seed that stopped earlier than the others of its line would lift their mean.
    line = rows.groupby([*SETTING, *METHOD, "variant"], observed=True, dropna=False)
    return rows[rows["step"] == line["step"].transform("max")].copy()


FIGURE = Figure(
    id="per_token",
    title="Perplexity by token index",
    paper="Figure 2 right (submission: Figure 5)",
    needs="runs with an evaluation by token index, as every finished run has",
    give="ttt-sweep submit sweep=laptop_per_token slurm=local",
    table=table,
    draw=draw,
)
