"""The claim about the inner loss in the course of a sequence."""

from typing import cast

import pandas as pd

from ttt.analysis.comparison import is_standard, is_whole
from ttt.analysis.labels import COMPARED_AT, describe_scope, method_label
from ttt.analysis.store import Results
from ttt.claims.verdict import Part, paired

CASE = [*COMPARED_AT, "model", "backbone", "mini_batch_size", "start"]
"""Columns that identify the cases that are judged separately."""


def inner_loss(results: Results) -> list[Part]:
    """Judge loss(W_t) < loss(W_{t-1}) < loss(W_0), the last gap growing with t, from the mean over a run's layers."""
    rows = results.select_inner_loss().merge(_with_case(results), on="run_id")
    parts = []
    for case, group in rows.groupby([*CASE, "split"], dropna=False, observed=True):
        runs = [run.groupby("position")[LOSSES].mean() for _, run in group.groupby("run_id", observed=True)]
        name, ids = _describe(cast(tuple, case), group), list(group["run_id"].unique())
        for lower, higher, text in STEPS:
            steps = [float((run[lower] - run[higher]).mean()) for run in runs]
            parts.append(paired(f"{text}, {name}", steps, ids, "1", counted="run"))
        grows = f"loss(W_t-1) - loss(W_0) lower in the last quarter than in the second, {name}"
        parts.append(paired(grows, [_growth(run) for run in runs], ids, "1", counted="run"))
    return parts


LOSSES = ["loss_initial", "loss_before", "loss_after"]

STEPS = (
    ("loss_after", "loss_before", "loss(W_t) below loss(W_t-1)"),
    ("loss_before", "loss_initial", "loss(W_t-1) below loss(W_0)"),
)


def _growth(run: pd.DataFrame) -> float:
    """Return the gap to W_0, negative if W_{t-1} is better, in the last quarter of the sequence less the second."""
    gap, share = run["loss_before"] - run["loss_initial"], run.index / run.index.max()
    return float(gap[share > 0.75].mean() - gap[(share > 0.25) & (share <= 0.5)].mean())


def _with_case(results: Results) -> pd.DataFrame:
    """Return run_id and ``CASE`` of whole runs of standard methods for all mini-batch sizes."""
    chosen = is_standard(results, "model", {"model.mini_batch_size"}) & is_whole(results.runs).to_numpy(bool)
    return results.runs.loc[chosen, ["run_id", *CASE]]


def _describe(case: tuple, rows: pd.DataFrame) -> str:
    model, backbone, b, start, split = case[len(COMPARED_AT) :]
    texts = [method_label(model, backbone), "" if pd.isna(b) else f"b = {b}", start, describe_scope(rows)]
    texts.append("test" if split == "test" else "")
    return ", ".join(filter(None, texts))
