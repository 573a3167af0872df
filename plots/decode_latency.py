"""Time to write one more token against the context before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .latency import draw_latency
from .registry import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from pandas import DataFrame

    from ttt.results.store import Results


def table(results: Results) -> DataFrame:
    """Return one row per model and context: ``ttt.results.latency.COLUMNS``."""
    from ttt.results.latency import latencies

    return latencies(results, "decode")


def draw(table: DataFrame) -> Canvas:
    """Draw one line per model."""
    return draw_latency(table, 1e3, "Decode time (ms per token)")


FIGURE = Figure(
    id="decode_latency",
    title="Decode time per token against context length",
    paper="Figure 12 (submission: Figure 13)",
    needs="a benchmark of the models' latency",
    give="ttt-bench latency",
    table=table,
    draw=draw,
)
