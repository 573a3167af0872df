"""Time per token of whole models, from the benchmarks of their latency."""

import pandas as pd

from ttt.results.store import Results

SAME = ["cpu", "gpu", "threads", "width", "heads", "dtype", "batch"]
"""Columns in which benchmarks agree that may stand in one figure."""

COLUMNS = [
    *("benchmark_id", "started", *SAME, "rounds", "model", "backbone", "form", "tokens", "measure"),
    *("seconds_per_token", "low", "high"),
]
"""Of every measurement; seconds a token, ``low`` and ``high`` being quartiles."""


def latencies(results: Results, measure: str) -> pd.DataFrame:
    """One row a model and context: what was measured last on the machine and at the sizes of the newest benchmark.

    A token is one of one sequence: ``batch`` sequences at once share the time of a pass. Of several forms of the inner
    loop the fastest at each context counts. Each row has the backbone of its model.

    Args:
        results: all benchmarks.
        measure: train, prefill or decode.
    """
    rows = results.benchmarks
    rows = rows.assign(gpu=rows["gpu"].fillna("") if "gpu" in rows else "", backbone=rows["backbone"].fillna(""))
    rows = rows[(rows["kind"] == "latency") & (rows["measure"] == measure)]
    newest = rows.loc[rows["started"] == rows["started"].max(), SAME].drop_duplicates()
    rows = rows.merge(newest, on=SAME)
    line = ["model", "backbone", "tokens"]
    rows = rows[rows["started"] == rows.groupby(line, dropna=False)["started"].transform("max")]
    # Decoding reads one token of every sequence, the other measures all of the context.
    tokens = (rows["batch"] * (1 if measure == "decode" else rows["tokens"])).astype(float)
    rows = rows.assign(seconds_per_token=rows["value"] / tokens, low=rows["low"] / tokens, high=rows["high"] / tokens)
    rows = rows.sort_values([*line, "seconds_per_token"]).drop_duplicates(line)
    return rows[COLUMNS].reset_index(drop=True)
