"""Training time against context length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .latency import draw_latency
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results

STATED = (
    "The paper states, at 1.3B on an H100: TTT-Linear 2x faster than Mamba, TTT-MLP 20% slower. "
    "Not drawn: measured on other hardware."
)
"""The paper's statement about training time."""


def table(results: Results) -> DataFrame:
    """Return one row per model and context: ``ttt.results.latency.COLUMNS``."""
    from ttt.results.latency import latencies

    return latencies(results, "train")


def draw(table: DataFrame) -> Canvas:
    """Draw one line per model."""
    return draw_latency(table, 1e3, "Training time (s per 1,000 tokens)", STATED)


FIGURE = Figure(
    id="training_latency",
    title="Training time per token against context length",
    paper="not in arXiv v4 (submission: Figure 6)",
    needs="a benchmark of the models' latency",
    give="ttt-bench latency",
    table=table,
    draw=draw,
)
