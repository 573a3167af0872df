"""Nats gained on the same tokens by the context before them, with two controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ttt.analysis.comparison import SIZE
from ttt.analysis.context_gain import SAME_TARGETS, context_losses
from ttt.claims.student import critical
from ttt.config.errors import counted
from ttt.results.context_gain import FOREIGN, OWN, SHUFFLED, TARGETS

from .panels import ID_COLUMNS, caption, grid, labels, legend, lines, over_seeds, span, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

    from .style import LineStyle, Method

PANEL_HEIGHT, LEAST_WIDTH = 2.8, 4.8
"""Inches; a single panel is wider than those of other figures, because it has many lines."""

CONTROLS = {
    FOREIGN: ((0, (5, 2)), "beyond 512: another document"),
    SHUFFLED: ((0, (1, 1.5)), "beyond 512: shuffled"),
}
"""Control -> line style and label."""


def table(results: Results) -> DataFrame:
    """Return one row per run, context and control: the gain over the shortest context, in nats/token.

    ``gain`` is the mean over ``documents``, of ``windows`` in all, with the 95% confidence interval ``gain`` ±
    ``half_width`` (Student's t over documents). Of each text and size, the table has the targets on which most runs
    were measured, of equally many the longest windows, and the longest context of each method.
    """
    rows = context_losses(results)
    measured = rows.groupby([*SIZE, "targets"], observed=True).agg(
        runs=("run_id", "nunique"), longest=("longest", "max")
    )
    chosen = measured.sort_values(["runs", "longest"]).reset_index().drop_duplicates(SIZE, keep="last")
    rows = rows.merge(chosen[SAME_TARGETS], on=SAME_TARGETS)
    method = [*SIZE, "model", "backbone", "start"]
    rows = rows[rows["ctx"] == rows.groupby(method, observed=True)["ctx"].transform("max")]
    first = rows[(rows["control"] == OWN) & (rows["context"] == rows["context"].min())]
    base = first.set_index(["run_id", "document"])["loss"].rename("base")
    rows = rows.join(base, on=["run_id", "document"])
    rows = rows.assign(gain=rows["base"] - rows["loss"])
    keys = [*ID_COLUMNS, "data_digest", "split", "step", "targets", "longest", "control", "context"]
    gains = rows.groupby(keys, observed=True).agg(
        gain=("gain", "mean"),
        half_width=("gain", _half_width),
        loss=("loss", "mean"),
        documents=("document", "nunique"),
        windows=("windows", "sum"),
    )
    return gains.reset_index()


def draw(table: DataFrame) -> Canvas:
    """Draw one panel per text and size, in which each method has a line and its two controls."""
    parts = [part for _, part in table.groupby(SIZE, observed=True)]
    parts.sort(key=lambda part: (part["data"].iloc[0], part["parameters"].min()))
    same_text = table["data"].nunique() == 1
    canvas, panels = grid(len(parts), min(len(parts), 3), PANEL_HEIGHT, sharey=same_text)
    canvas.set_figwidth(max(canvas.get_figwidth(), LEAST_WIDTH))
    for axes, part in zip(panels, parts, strict=True):
        draw_gains(axes, part, styles_of(table))
        axes.set_title(f"{part['data'].iloc[0]}, size {part['size'].iloc[0]}")
    labels(canvas, f"Context before the {TARGETS} judged tokens (tokens)", "Gained (nats per token)")
    legend(canvas)
    caption(canvas, *_sentences(table))
    return canvas


def draw_gains(axes: Axes, part: DataFrame, styles: Mapping[Method, LineStyle]) -> None:
    """Draw the lines of one text and size into a panel, with the controls that ``part`` has; ``styles`` of methods."""
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.set_xscale("log")
    for style, rows in lines(part, styles):
        _draw_method(axes, rows, style)
    _ticks(axes, part["context"])


def _draw_method(axes: Axes, rows: DataFrame, style: LineStyle) -> None:
    own = rows[rows["control"] == OWN]
    line = over_seeds(own, "context", "gain")
    errors = own.groupby("context")["half_width"].mean()
    axes.fill_between(line.index, line["min"], line["max"], color=style.colour, alpha=0.12, linewidth=0)
    look = style.line | {"linestyle": "-"}
    axes.errorbar(line.index, line["mean"], errors, **look, label=style.label, capsize=1.8, elinewidth=0.8)
    for control, (dashes, text) in CONTROLS.items():
        # The controls keep the shortest context as it is.
        of_control = (rows["control"] == control) | ((rows["control"] == OWN) & (rows["context"] == line.index[0]))
        changed = over_seeds(rows[of_control], "context", "gain")
        if len(changed) > 1:
            thin: dict[str, Any] = {"linestyle": dashes, "linewidth": 0.9}
            axes.plot(changed.index, changed["mean"], color=style.colour, **thin)
            # One entry of the legend for all methods: it already has their colours.
            axes.plot([], [], color="0.4", **thin, label=text)


def _ticks(axes: Axes, contexts: Series) -> None:
    from matplotlib.ticker import NullLocator

    ticks = sorted(contexts.unique())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])


def _half_width(gains: Series) -> float:
    """Return half of the 95% confidence interval of the mean; NaN for one document."""
    return critical(len(gains) - 1) * cast(float, gains.sem()) if len(gains) > 1 else math.nan


def _sentences(table: DataFrame) -> list[str]:
    seeds = table.groupby([*SIZE, "model", "backbone", "start"], observed=True)["run_id"].nunique()
    windows = span(table["windows"].min(), table["windows"].max())
    documents = counted(int(table["documents"].max()), "document")
    several = f"Lines: mean of {span(seeds.min(), seeds.max())} seeds; bands: lowest to highest."
    splits = " and ".join(sorted(table["split"].unique(), reverse=True))
    return [
        f"Loss of the last {TARGETS} tokens of {windows} windows of {documents} ({splits}) with the least context, "
        "less that with more; 95% intervals over documents. Thin: context beyond 512 tokens from another document, or "
        "shuffled in pieces of 64.",
        several if seeds.max() > 1 else "",
    ]


FIGURE = Figure(
    id="context_gain",
    title="Nats gained on the same tokens by the context before them",
    paper="not in the paper (beside Figure 2 right)",
    needs="runs at contexts of 1,024 tokens or more that were probed",
    give="ttt-sweep submit sweep=context_gain scale=laptop slurm=local; "
    "ttt-eval run=FOLDER probe=context_gain longest=8192",
    table=table,
    draw=draw,
)
