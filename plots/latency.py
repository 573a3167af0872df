"""Time per token of training, prefill and decoding against context length: one line per model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ttt.analysis.labels import LAYERS
from ttt.analysis.latency import latencies
from ttt.config.errors import counted
from ttt.results.benchmarks import PLAIN_RECURRENCE, PLAIN_SCAN

from .panels import CAPTION_HEIGHT, caption, labels, legend, lines, plain_log_ticks, powers_of_two, span, styles_of
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.analysis.store import Results

WIDTH, HEIGHT = 4.4, 2.9
"""Inches."""


def table(results: Results, measure: str) -> DataFrame:
    """Return one row per model and context: ``ttt.analysis.latency.COLUMNS``."""
    return latencies(results, measure)


def draw(table: DataFrame, y_label: str, stated: str = "") -> Canvas:
    """Draw one line per model on logarithmic axes, with the quartiles as a band.

    Args:
        table: of ``latencies``, not empty.
        y_label: label of the axis, in milliseconds per token.
        stated: the paper's statement, a sentence of the caption.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT + CAPTION_HEIGHT), layout="constrained")
    axes = canvas.subplots()
    draw_times(axes, table)
    labels(canvas, "Context length (tokens)", y_label)
    legend(canvas)
    caption(canvas, _machine(table), stated)
    return canvas


def draw_times(axes: Axes, table: DataFrame) -> None:
    """Draw the lines of ``draw`` into a panel, in milliseconds per token, with numbers on both axes."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    table = table.assign(start="", changed="")
    for style, line in lines(table, styles_of(table)):
        line = line.sort_values("tokens").astype({"tokens": float})
        low, middle, high = (1e3 * line[name] for name in ("low", "seconds_per_token", "high"))
        axes.fill_between(line["tokens"], low, high, color=style.colour, alpha=0.15, linewidth=0)
        axes.plot(line["tokens"], middle, **style.line, label=style.label)
    powers_of_two(axes.xaxis, table["tokens"].max(), step=1)
    plain_log_ticks(axes.yaxis)


def device(table: DataFrame) -> str:
    """Return the GPU, or the threads and the CPU, of a table of ``latencies``."""
    first = table.iloc[0]
    return str(first["gpu"] or f"{counted(int(first['threads']), 'thread')} of {first['cpu']}")


def _machine(table: DataFrame) -> str:
    first = table.iloc[0]
    batch = span(table["batch"].min(), table["batch"].max())
    slow = " Mamba runs without its authors' kernels (mamba-ssm)." if PLAIN_SCAN in set(table["form"]) else ""
    plain = table.loc[table["form"] == PLAIN_RECURRENCE, "model"].unique()
    slow += f" In plain PyTorch: {', '.join(LAYERS.get(model, model) for model in plain)}." if len(plain) else ""
    weights, dtype = first["weights"], first["dtype"]
    precision = dtype if weights == dtype else f"{dtype} by autocast over {weights} weights"
    again = int((table["remeasured"] > 0).sum())
    repeated = f" Measured again because they stood out: {counted(again, 'point')}." if again else ""
    return (
        f"Width {first['width']}, {counted(first['heads'], 'head')}, batch {batch}, {precision}, on {device(table)}; "
        f"median and quartiles of {first['rounds']} rounds; time of a pass per token of all its sequences."
        f"{repeated}{slow}"
    )


NEEDS, GIVE = "a benchmark of the models' latency", "ttt-bench latency"

STATED_TRAINING = (
    "The paper states, at 1.3B on an H100: TTT-Linear 2x faster than Mamba, TTT-MLP 20% slower. "
    "Not drawn: measured on other hardware."
)

TRAINING = Figure(
    id="training_latency",
    title="Training time per token against context length",
    paper="not in arXiv v4 (submission: Figure 6)",
    needs=NEEDS,
    give=GIVE,
    table=partial(table, measure="train"),
    draw=partial(draw, y_label="Training time (s per 1,000 tokens)", stated=STATED_TRAINING),
)

PREFILL = Figure(
    id="prefill_latency",
    title="Prefill time per token against context length",
    paper="Figure 12 (submission: Figure 13)",
    needs=NEEDS,
    give=GIVE,
    table=partial(table, measure="prefill"),
    draw=partial(draw, y_label="Prefill time (ms per token)"),
)

DECODE = Figure(
    id="decode_latency",
    title="Decode time per token against context length",
    paper="Figure 12 (submission: Figure 13)",
    needs=NEEDS,
    give=GIVE,
    table=partial(table, measure="decode"),
    draw=partial(draw, y_label="Decode time (ms per token)"),
)
