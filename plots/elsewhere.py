"""Perplexity by token index at contexts and on texts that a run was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttt.analysis.names import changed_names
from ttt.analysis.selection import only

from .intervals import half_widths_elsewhere
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
from .per_token import bars_sentence, end_bar, smoothed
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results


def table(results: Results) -> DataFrame:
    """Return loss (nats/token) and perplexity by token index, smoothed as in ``per_token``, of evaluations elsewhere.

    ``data`` and ``judged_ctx`` are the text and the context of the evaluation, ``ctx`` that of the training. Of several
    contexts on a text, the table has the longest of each run.

    Evaluations on little text have ``half_width`` and ``judged_documents``, as in ``per_token``.
    """
    import pandas as pd

    rows = _named_apart(results.evaluations)
    rows = rows[rows["judged_ctx"] == rows.groupby(["run_id", "data"])["judged_ctx"].transform("max")]
    by_run = rows.groupby(["run_id", "data", "judged_ctx"])
    curves = [smoothed(run).assign(**run.iloc[0][["run_id", "evaluation", "data", "judged_ctx"]]) for _, run in by_run]
    evaluated = only(results, set(rows["run_id"]))
    runs = evaluated.runs.assign(changed=changed_names(evaluated))[
        [column for column in ID_COLUMNS if column != "data"]
    ]
    drawn = runs.merge(pd.concat(curves or [rows]), on="run_id")
    key = ["run_id", "evaluation"]
    ends = half_widths_elsewhere(results).merge(drawn[key].drop_duplicates(), on=key)
    drawn = drawn.merge(ends, on=key, how="left") if len(ends) else drawn
    return drawn.drop(columns="evaluation")


def _named_apart(evaluations: DataFrame) -> DataFrame:
    """Add the split to names of data that were read in several, so that each has a panel of its own."""
    several = evaluations.groupby("data")["split"].transform("nunique") > 1
    names = evaluations["data"].mask(several, evaluations["data"] + ", " + evaluations["split"])
    return evaluations.assign(data=names)


def draw(table: DataFrame) -> Canvas:
    """Draw one line per method on logarithmic axes, and the context of the training."""
    canvas, parts = panels(table)
    styles = styles_of(table)
    for axes, part in parts:
        axes.set(xscale="log", yscale="log")
        for number, (style, rows) in enumerate(lines(part, styles)):
            line = over_seeds(rows, "token_index", "loss").apply(np.exp)
            band(axes, line, style, number)
            if "half_width" in rows:
                end_bar(axes, line["mean"], float(rows["half_width"].mean()), style, number)
        axes.axvline(part["ctx"].max(), color="0.4", linestyle=":", linewidth=0.9, label="context of the training")
        powers_of_two(axes.xaxis, part["judged_ctx"].max())
        plain_log_ticks(axes.yaxis)
    labels(canvas, "Token index in the window (tokens)", "Perplexity (per token)")
    legend(canvas)
    sequences = span(table["sequences"].min(), table["sequences"].max())
    noun = "sequence" if sequences == "1" else "sequences"
    caption(
        canvas, f"{sequences} {noun}; mean over an octave of token index.", seeds_sentence(table), bars_sentence(table)
    )
    return canvas


FIGURE = Figure(
    id="elsewhere",
    title="Perplexity by token index at other contexts and on other texts than trained",
    paper="not in the paper",
    needs="a run evaluated by ttt-eval at another context or on another text",
    give="ttt-eval run=runs/NAME ctx=8k",
    table=table,
    draw=draw,
)
