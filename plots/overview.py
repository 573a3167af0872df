"""The suite's results in one picture: the steps of Table 1, what context is worth, and time against context."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ttt.analysis.comparison import SIZE
from ttt.config.label import TableForm
from ttt.results.context_gain import OWN, TARGETS

from . import ablation, context_gain, latency
from .panels import caption, legend, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

WIDTH, HEIGHT = 8.6, 3.3
"""Inches; readable at a width of 850 pixels."""

PANEL = "panel"

STEPS, GAIN, TIME = "steps of Table 1", "gain by context", "time per token"
"""Values of the column ``PANEL``."""

STEP_COLUMNS = ["run_id", "data", "size", "ctx", "seed", "row", "form", "split", "perplexity", "copies", "role"]
GAIN_COLUMNS = [
    *("run_id", "data", "size", "ctx", "model", "backbone", "start", "changed", "seed", "split"),
    *("control", "context", "gain", "half_width", "documents"),
]
TIME_COLUMNS = [
    *("benchmark_id", "model", "backbone", "tokens", "seconds_per_token", "low", "high"),
    *("cpu", "gpu", "threads", "width"),
]

TICKS = {
    2: "no feature\nmap",
    3: "TTT layer of\nTheorem 1",
    4: "learnable $W_0$",
    5: "LN, residual",
    6: "mini-batch\nb = 16",
    7: "learnable $\\eta$,\ntoken scale",
    8: "Mamba\nbackbone",
}
"""Row of Table 1 -> its change in a few characters."""

ABSENT = {
    STEPS: f"No two rows of Table 1 were trained: {ablation.FIGURE.give}",
    GAIN: f"No run was probed: {context_gain.FIGURE.give}",
    TIME: f"No time was measured: {latency.TRAINING.give}",
}
"""What is written into a panel without data."""

ABSENT_WIDTH = 30
"""Characters of a line of it."""


def table(results: Results) -> DataFrame:
    """Return the rows of the three panels, of ``PANEL``: those of the figures ablation, context_gain, training_latency.

    Of context_gain it has the text and size with the most methods, the larger size of several, and no controls.
    """
    import pandas as pd

    steps, gains = ablation.table(results), context_gain.table(results)
    parts = {
        STEPS: steps[steps["form"] == TableForm.RELEASED][STEP_COLUMNS],
        GAIN: _most_methods(gains[gains["control"] == OWN])[GAIN_COLUMNS],
        TIME: latency.table(results, measure="train")[TIME_COLUMNS],
    }
    found = [part.assign(**{PANEL: name}) for name, part in parts.items() if len(part)]
    if not found:
        return pd.DataFrame({PANEL: pd.array([], dtype="string")})
    whole = pd.concat(found, ignore_index=True)
    return whole[[PANEL, *(column for column in whole if column != PANEL)]]


def draw(table: DataFrame) -> Canvas:
    """Draw the three panels side by side; one without data says how to make them."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
    drawers = {STEPS: _draw_steps, GAIN: _draw_gain, TIME: _draw_time}
    sentences = []
    for axes, (name, draw_panel) in zip(canvas.subplots(1, len(drawers)), drawers.items(), strict=True):
        part = table[table[PANEL] == name]
        if len(part):
            sentences.append(draw_panel(axes, part))
        else:
            axes.set_axis_off()
            words = textwrap.fill(ABSENT[name], ABSENT_WIDTH, break_on_hyphens=False)
            axes.text(0.5, 0.5, words, ha="center", va="center", color="0.35", transform=axes.transAxes)
    legend(canvas)
    caption(canvas, *sentences)
    return canvas


def _draw_steps(axes: Axes, part: DataFrame) -> str:
    """Draw the panel and return its caption."""
    ablation.draw_steps(axes, part)
    first, last = min((row for row, _ in ablation.steps(part)), default=min(TICKS)), max(TICKS)
    axes.set_yticks([*range(first, last + 1)], [TICKS[row] for row in range(first, last + 1)])
    axes.tick_params(labelleft=True)
    axes.set_ylim(last + 0.6, first - 0.6)
    run = part.iloc[0]
    axes.set_title(f"Table 1, {run['data']}, {run['size']}, context of {int(run['ctx']):,}")
    axes.set_xlabel("Step from the row before (nats/token)")
    return f"Left: {run['split']} loss less that of the row before, mean over seeds and its 95% interval (Student's t)."


def _draw_gain(axes: Axes, part: DataFrame) -> str:
    """Draw the panel and return its caption."""
    context_gain.draw_gains(axes, part.astype({"context": int}), styles_of(part))
    run = part.iloc[0]
    axes.set_title(f"What context is worth, {run['data']}, {run['size']}")
    axes.set_xlabel("Context (tokens)")
    axes.set_ylabel("Gained (nats/token)")
    return (
        f"Middle: loss of {TARGETS} tokens with the least context, less that with more; 95% intervals over documents."
    )


def _draw_time(axes: Axes, part: DataFrame) -> str:
    """Draw the panel and return its caption."""
    latency.draw_times(axes, part)
    axes.set_title("Time of training")
    axes.set_xlabel("Context (tokens)")
    axes.set_ylabel("Time per token (ms)")
    return f"Right: width {int(part['width'].iloc[0])}, on {latency.device(part)}; median and quartiles."


def _most_methods(gains: DataFrame) -> DataFrame:
    """Return the gains of the text and size with the most methods; of several, the one with the largest models."""
    if not len(gains):
        return gains
    methods = gains.assign(method=gains["model"] + gains["backbone"] + gains["start"])
    sizes = methods.groupby(SIZE, observed=True).agg(number=("method", "nunique"), parameters=("parameters", "max"))
    chosen = sizes.sort_values(["number", "parameters"]).reset_index().iloc[[-1]]
    return gains.merge(chosen[SIZE], on=SIZE)


FIGURE = Figure(
    id="overview",
    title="The steps of Table 1, what context is worth, and time against context",
    paper="not in the paper",
    needs="runs of Table 1, probed runs, or a benchmark of the models' latency",
    give="ttt-sweep submit sweep=ablation scale=laptop slurm=local; ttt-eval run=FOLDER probe=context_gain; "
    "ttt-bench latency",
    table=table,
    draw=draw,
)
