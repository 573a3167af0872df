"""Table 1: from linear attention to TTT-Linear, row by row, with the step in loss beside the paper's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import COMPARED_AT
from ttt.analysis.table_1 import FIRST_TTT_ROW, STATED, TABLE_1, stated_step, table_1_runs
from ttt.claims.verdict import interval
from ttt.config.errors import counted
from ttt.config.label import TableForm

from .intervals import ENDS
from .panels import caption
from .points import as_points, drawn, notes, reported
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

WIDTH, ROW_HEIGHT, REST = 9.2, 0.3, 1.7
"""Inches."""

COLUMNS = {"": 0.0, "difference from the previous row": 0.05, "perplexity": 0.66, "step (nats)": 1.0}
"""Heading of a column of the table -> its horizontal position; the last column ends there."""

MARKS: dict[TableForm, tuple[str, float, dict[str, Any]]] = {
    TableForm.RELEASED: ("measured", -0.12, {"marker": "o", "color": "#0072B2"}),
    TableForm.PAPER: ("the paper's literal text", 0.3, {"marker": "s", "color": "0.55", "markersize": 4}),
    TableForm.SHORT_ROPE: ("of it, RoPE's shorter period", 0.3, {"marker": "^", "color": "#D55E00", "markersize": 5}),
}
"""Form -> its entry in the legend, its vertical distance from the row, and how it is drawn."""

STATED_MARK: dict[str, Any] = {"marker": "*", "markersize": 9, "markerfacecolor": "white", "color": "0.25"}

STATED_OFFSET = 0.09


def table(results: Results) -> DataFrame:
    """Return one row per run: ``points.POINT_COLUMNS``, ``row``, ``form``, and the paper's: ``stated``, ``source``.

    The runs are from the data, size and context with the most rows of Table 1. ``form`` is a ``TableForm``.
    """
    import pandas as pd

    forms = [table_1_runs(results, form).assign(form=form.value) for form in TableForm]
    tables = [as_points(results, runs, "row", "form") for runs in forms]
    # The first rows belong to both forms.
    rows = pd.concat([part for part in tables if len(part)] or tables[:1]).drop_duplicates("run_id")
    released = drawn(rows[rows["form"] == TableForm.RELEASED])
    if len(released):
        counts = released.groupby(COMPARED_AT, observed=True)["row"].nunique().reset_index()
        rows = rows.merge(counts.loc[[counts["row"].idxmax()], COMPARED_AT], on=COMPARED_AT)
    else:
        rows = rows.iloc[:0]
    stated = [TABLE_1[row].stated for row in rows["row"]]
    rows = reported(results, rows).drop(columns=ENDS, errors="ignore").assign(stated=stated, source=STATED)
    return rows.sort_values(["row", "form", "seed"], ignore_index=True)


def steps(table: DataFrame) -> dict[tuple[int, TableForm], tuple[float, float, float]]:
    """Return (row, form) -> loss minus the previous row's in nats/token: mean over seeds and its 95% interval.

    For ``SHORT_ROPE`` the row is 6 and the difference is from row 5 with its own period to row 5 with that of row 6.
    """
    shown = drawn(table)
    by_row = shown.assign(loss=np.log(shown["perplexity"].astype(float))).groupby(["form", "row"])
    losses = {
        (TableForm(str(form)), int(str(row))): runs.groupby("seed")["loss"].mean() for (form, row), runs in by_row
    }
    found = {}
    for form, row in losses:
        shared = form == TableForm.SHORT_ROPE or row <= FIRST_TTT_ROW
        before = TableForm.RELEASED if shared else form, row if form == TableForm.SHORT_ROPE else row - 1
        if before in losses:
            differences = (losses[form, row] - losses[before]).dropna()
            if len(differences):
                found[before[1] + 1, form] = interval(list(differences))
    return found


def copying_rows(table: DataFrame) -> dict[tuple[int, TableForm], tuple[int, int]]:
    """Return (row, form) -> the number of its runs that copy from context and of all measured, if any copies."""
    measured = drawn(table).dropna(subset=["copies"])
    counts = measured.astype({"copies": int}).groupby(["row", "form"], observed=True)["copies"].agg(["sum", "size"])
    return {(int(row), TableForm(form)): (int(k), int(n)) for (row, form), k, n in counts.itertuples() if k}


def draw(table: DataFrame) -> Canvas:
    """Draw one line per row of Table 1, with the measured perplexity, and the steps beside the paper's."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, ROW_HEIGHT * len(TABLE_1) + REST), layout="constrained")
    words, dots = canvas.subplots(1, 2, width_ratios=(1.35, 1), sharey=True)
    _write(words, table)
    draw_steps(dots, table)
    dots.legend(loc="best", fontsize=7)
    first = table.iloc[0]
    dots.set_title(f"{first['data']}, size {first['size']}, context of {first['ctx']:,} tokens")
    words.set_ylim(len(TABLE_1) + 0.6, 0.2)
    caption(
        canvas,
        f"Step: {first['split']} loss minus the previous row's, mean over pairs of equal seeds and its 95% interval "
        "(Student's t). Perplexity: mean over seeds.",
        *notes(table, "row", "form")[1:-1],
        _copying(table),
    )
    return canvas


def draw_steps(axes: Axes, table: DataFrame) -> None:
    """Draw the steps of ``steps``, at the height of their row, with their intervals and beside the paper's."""
    measured, copying = steps(table), copying_rows(table)
    for form, (name, offset, style) in MARKS.items():
        places = {row: step for (row, of), step in measured.items() if of == form}
        if not places:
            continue
        means, lows, highs = (np.array(column) for column in zip(*places.values(), strict=True))
        errors = np.nan_to_num([means - lows, highs - means])
        rows = np.array([row + offset for row in places])
        copies = np.array([(row, form) in copying for row in places])
        for chosen, label, face in ((~copies, name, None), (copies, f"{name}, copies from context", "white")):
            if chosen.any():
                look: dict[str, Any] = {"linestyle": "none", "capsize": 2, "elinewidth": 0.9, "markerfacecolor": face}
                axes.errorbar(means[chosen], rows[chosen], xerr=errors[:, chosen], label=label, **look, **style)
    stated = [(stated_step(row), row + STATED_OFFSET) for row in TABLE_1 if row > 1]
    axes.plot(*zip(*stated, strict=True), linestyle="none", label="the paper, 125M on the Pile", **STATED_MARK)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for row in sorted(set(table.loc[table["role"] == RunRole.DIVERGED, "row"])):
        axes.plot(0.97, row, "x", color="#D55E00", transform=axes.get_yaxis_transform(), markersize=6)
    axes.tick_params(left=False, labelleft=False)
    axes.set_xlabel("Step from the previous row (nats per token)")


def _copying(table: DataFrame) -> str:
    """Return a sentence about the rows in the released form whose runs copy from context; empty if none does."""
    counts = {row: count for (row, form), count in copying_rows(table).items() if form == TableForm.RELEASED}
    rows = [f"{row} ({k} of {counted(n, 'run')})" for row, (k, n) in counts.items()]
    # The steps between rows that copy and rows that do not say little about the layer.
    return f"Copying from context, hollow circles: row {', row '.join(rows)}." if rows else ""


def _write(axes: Axes, table: DataFrame) -> None:
    axes.set_axis_off()
    heading: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 7.5, "va": "center"}
    for (name, x), side in zip(COLUMNS.items(), ("left", "left", "center", "right"), strict=True):
        axes.text(x, 0.35, name, ha=side, fontweight="bold", **heading)
    shown, measured = drawn(table[table["form"] == TableForm.RELEASED]), steps(table)
    for number, row in TABLE_1.items():
        perplexities = shown.loc[shown["row"] == number, "perplexity"].astype(float)
        perplexity = f"{perplexities.mean():.2f}" if len(perplexities) else "not run"
        step = _with_interval(*measured[found]) if (found := (number, TableForm.RELEASED)) in measured else ""
        cells = (str(number), _mathematical(row.text), perplexity, step)
        for x, cell, side in zip(COLUMNS.values(), cells, ("left", "left", "center", "right"), strict=True):
            axes.text(x, number, cell, ha=side, **heading)


def _with_interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f}" if math.isnan(low) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


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
