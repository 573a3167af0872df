"""Time per token of whole models, from latency benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

SAME = ["cpu", "gpu", "threads", "width", "heads", "dtype", "weights", "batch"]
"""Columns that must be equal for benchmarks to appear in one figure."""

COLUMNS = [
    *("benchmark_id", "started", *SAME, "rounds", "model", "backbone", "form", "tokens", "measure"),
    *("seconds_per_token", "low", "high", "remeasured"),
]
"""Columns of the table of latencies.

``weights`` is the dtype of the weights; ``low`` and ``high`` are the quartiles of ``seconds_per_token``;
``remeasured``: times that a point was measured again because it stood out.
"""

HALF = ("bfloat16", "float16")
"""The dtypes in which training, and in older benchmarks everything, is autocast over float32 weights."""


def latencies(results: Results, measure: str) -> DataFrame:
    """Return one row per model and context: the latest time on the machine and at the sizes of the newest benchmark.

    The time of a pass is divided by the tokens of all ``batch`` sequences in it. If several kernels of the inner loop
    were timed, the fastest at each context is used. Each row has the backbone of its model.

    Args:
        results: all benchmarks.
        measure: train, prefill or decode.
    """
    rows = results.benchmarks
    rows = rows.assign(gpu=rows["gpu"].fillna("") if "gpu" in rows else "", backbone=rows["backbone"].fillna(""))
    rows = rows[(rows["kind"] == "latency") & (rows["measure"] == measure)]
    converted = rows["half_weights"].fillna(False).astype(bool) & (measure != "train")
    rows = rows.assign(
        weights=rows["dtype"].where(~rows["dtype"].isin(HALF) | converted, "float32"),
        remeasured=rows["remeasured"].fillna(0),
    )
    newest = rows.loc[rows["started"] == rows["started"].max(), SAME].drop_duplicates()
    rows = rows.merge(newest, on=SAME)
    line = ["model", "backbone", "tokens"]
    rows = rows[rows["started"] == rows.groupby(line, dropna=False)["started"].transform("max")]
    # Decoding reads one token of every sequence; the other measures read the whole context.
    tokens = (rows["batch"] * (1 if measure == "decode" else rows["tokens"])).astype(float)
    rows = rows.assign(seconds_per_token=rows["value"] / tokens, low=rows["low"] / tokens, high=rows["high"] / tokens)
    rows = rows.sort_values([*line, "seconds_per_token"]).drop_duplicates(line)
    return rows[COLUMNS].reset_index(drop=True)
