"""Scores on tasks of lm-evaluation-harness against training FLOPs: one panel per task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import compare
from ttt.analysis.labels import COMPARED_AT
from ttt.analysis.names import changed_names
from ttt.analysis.selection import only

from .intervals import spread_of
from .panels import ID_COLUMNS, LINE, NARROW, caption, grid, labels, legend, lines, scientific_log_ticks, styles_of
from .points import draw_points
from .registry import Figure
from .scaling import FLOPS_LABEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

PANEL = ["data", "task", "metric", "num_fewshot", "judged_ctx"]
"""Columns that identify a panel: scores with other examples or in other contexts do not compare."""

SCORE_COLUMNS = [*PANEL[1:], "score", "error", "documents"]

MOST_COLUMNS, PANEL_HEIGHT = 3, 2.0
"""Panels in a row, and inches."""

INTERVAL = 1.96
"""Standard errors from the middle of a 95% interval to its ends."""


def table(results: Results) -> DataFrame:
    """Return the main score of each task with ``flops`` of the training and ``low`` and ``high``, its 95% interval.

    Left out are chosen weights, the parts of a group of tasks, and runs whose FLOPs are unknown: 0, as of imported
    weights of no known number of steps.
    """
    scores = results.scores
    own = (scores["weights"] == "") & (scores["part_of"] == "")
    scores = scores[own & scores["main"].astype(bool) & scores["score"].notna()]
    scored = only(results, set(scores["run_id"]))
    runs = compare(scored, scored.runs).assign(changed=changed_names(scored))
    runs = runs.loc[runs["flops"] > 0, [*ID_COLUMNS, "flops"]]
    rows = runs.merge(scores[["run_id", *SCORE_COLUMNS]], on="run_id")
    reach = INTERVAL * rows["error"]
    return rows.assign(low=(rows["score"] - reach).astype(float), high=(rows["score"] + reach).astype(float))


def draw(table: DataFrame) -> Canvas:
    """Draw one panel per task and one line per method through its sizes, with FLOPs on a logarithmic axis."""
    parts = [part for _, part in table.groupby(PANEL, observed=True)]
    canvas, panels = grid(len(parts), min(len(parts), MOST_COLUMNS), PANEL_HEIGHT, sharex=True, sharey=False)
    styles = styles_of(table)
    for axes, part in zip(panels, parts, strict=True):
        axes.set_xscale("log")
        for style, rows in lines(part, styles):
            groups = rows.groupby(["size", "ctx"], observed=True)
            places = groups["flops"].mean().astype(float)
            draw_points(axes, spread_of(groups, "score").set_index(places).sort_index(), style)
        axes.margins(0.08, 0.12)
        axes.set_title(_title(part.iloc[0], table))
        axes.tick_params(labelbottom=True)
    _widen(panels[0], table["flops"])
    scientific_log_ticks(panels[0].xaxis)
    labels(canvas, FLOPS_LABEL, "Score")
    legend(canvas)
    documents = table["documents"]
    count = f"{documents.min():,}" if documents.nunique() == 1 else f"{documents.min():,} to {documents.max():,}"
    seeds = table.groupby([*PANEL, *COMPARED_AT[1:], *LINE], observed=True)["run_id"].nunique().max()
    several = ", and from the lowest to the highest seed" if seeds > 1 else ""
    caption(canvas, f"Bars: 95% intervals over the {count} documents of a task{several}.")
    return canvas


def _title(row: Series, table: DataFrame) -> str:
    shots = f", {row['num_fewshot']} examples" if row["num_fewshot"] else ""
    context = f", context of {row['judged_ctx']:,}" if table["judged_ctx"].nunique() > 1 else ""
    data = f"{row['data']}: " if table["data"].nunique() > 1 else ""
    return f"{data}{row['task']}, {row['metric']}{shots}{context}"


def _widen(axes: Axes, flops: Series) -> None:
    """Give points of nearly the same FLOPs an axis on which they are apart from its ends."""
    if flops.max() / flops.min() < NARROW:
        axes.set_xlim(flops.min() / NARROW, flops.max() * NARROW)


FIGURE = Figure(
    id="tasks",
    title="Scores on tasks of lm-evaluation-harness against training FLOPs",
    paper="not in the paper",
    needs="a run scored by ttt-eval on tasks",
    give="ttt-eval run=runs/NAME tasks=lambada_openai,piqa",
    table=table,
    draw=draw,
)
