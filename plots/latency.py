"""Time per token against context length, shared by the latency figures. One line per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .panels import CAPTION_HEIGHT, caption, labels, legend, lines, plain_log_ticks, powers_of_two, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

WIDTH, HEIGHT = 4.4, 2.9
"""Inches."""


def draw_latency(table: DataFrame, scale: float, y_label: str, stated: str = "") -> Canvas:
    """Draw one line per model on logarithmic axes, with the quartiles as a band.

    Args:
        table: of ``ttt.results.latency.latencies``, not empty.
        scale: factor from seconds per token to the unit of the axis.
        y_label: label of the axis.
        stated: the paper's statement, a sentence of the caption.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(WIDTH, HEIGHT + CAPTION_HEIGHT), layout="constrained")
    axes = canvas.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for its, line in lines(table.assign(variant="")):
        line = line.sort_values("tokens")
        tokens = line["tokens"].astype(float)
        axes.fill_between(tokens, scale * line["low"], scale * line["high"], color=its.colour, alpha=0.15, linewidth=0)
        axes.plot(tokens, scale * line["seconds_per_token"], **its.line, label=its.label)
    powers_of_two(axes.xaxis, table["tokens"].max(), step=1)
    plain_log_ticks(axes.yaxis)
    labels(canvas, "Context length (tokens)", y_label)
    legend(canvas)
    caption(canvas, _machine(table), stated)
    return canvas


def _machine(table: DataFrame) -> str:
    of = table.iloc[0]
    threads = "1 thread" if of["threads"] == 1 else f"{of['threads']} threads"
    batch = span(table["batch"].min(), table["batch"].max())
    place = of["gpu"] or f"{threads} of {of['cpu']}"
    return (
        f"Width {of['width']}, {of['heads']} heads, batch {batch}, {of['dtype']}, on {place}; "
        f"median and quartiles of {of['rounds']} rounds. Time of a pass divided by the tokens of all sequences in it."
    )
