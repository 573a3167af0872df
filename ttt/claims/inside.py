"""Claims about the course of a sequence: the loss of later tokens, and the inner loss."""

from typing import cast

import pandas as pd

from ttt.analysis.comparison import is_standard, is_whole
from ttt.analysis.labels import COMPARED_AT, describe_scope, method_label
from ttt.analysis.store import Results
from ttt.claims.verdict import Part, paired

LEARNERS = ("ttt_linear", "ttt_mlp", "transformer")
"""Layers for which the paper claims that later tokens keep getting easier."""

CASE = [*COMPARED_AT, "model", "backbone", "mini_batch_size", "start"]
"""Columns that identify the cases that are judged separately."""


def later_tokens(results: Results) -> list[Part]:
    """Judge whether context from before a reset lowers the loss of later tokens, and more so late in the sequence."""
    rows = _probed(results)
    parts = []
    for case, group in rows.groupby(CASE, dropna=False):
        gains = [_gains(run) for _, run in group.groupby("run_id", observed=True)]
        name, ids = _describe(cast(tuple, case), group), list(group["run_id"].unique())
        helps = f"context from before a reset lowers the loss, {name}"
        parts.append(paired(helps, [gain for gain, _ in gains], ids, counted="run"))
        late = [later for _, later in gains if later is not None]
        if late:
            grows = f"and more so in the last stretch between resets than in the second, {name}"
            parts.append(paired(grows, late, ids, counted="run"))
    return parts


def inner_loss(results: Results) -> list[Part]:
    """Judge loss(W_t) < loss(W_{t-1}) < loss(W_0), the last gap growing with t, from the mean over a run's layers."""
    rows = results.select_inner_loss().merge(_with_case(results), on="run_id")
    parts = []
    for case, group in rows.groupby(CASE, dropna=False):
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


def _gains(run: pd.DataFrame) -> tuple[float, float | None]:
    """Return loss minus loss with resets (nats/token): mean after the first reset, and last chunk minus second."""
    every, length = run["reset_every"].iloc[0], run["position"].max()
    gain = (run["loss"] - run["loss_reset"]).astype(float)
    last, second = gain[run["position"] > length - every], gain[(run["position"] - 1) // every == 1]
    later = float(last.mean() - second.mean()) if length >= 3 * every else None
    return float(gain[run["position"] > every].mean()), later


def _probed(results: Results) -> pd.DataFrame:
    """Return the loss by token index with and without resets, for the methods of the claim."""
    rows = results.select("validation", "loss_reset", by_position=True).rename(columns={"value": "loss_reset"})
    rows = rows[rows["step"] == rows.groupby("run_id", observed=True)["step"].transform("max")]
    losses = results.select("validation", "loss", by_position=True).rename(columns={"value": "loss"})
    rows = rows.merge(losses, on=["run_id", "step", "position"])
    every = results.select("validation", "reset_every").rename(columns={"value": "reset_every"})
    rows = rows.merge(every[["run_id", "step", "reset_every"]], on=["run_id", "step"])
    return (
        rows[rows["position"].notna()]
        .astype({"position": "int64"})
        .merge(_with_case(results).query("model in @LEARNERS"), on="run_id")
    )


def _with_case(results: Results) -> pd.DataFrame:
    """Return run_id and ``CASE`` of whole runs of standard methods for all mini-batch sizes."""
    chosen = is_standard(results, "model", {"model.mini_batch_size"}) & is_whole(results.runs).to_numpy(bool)
    return results.runs.loc[chosen, ["run_id", *CASE]]


def _describe(case: tuple, rows: pd.DataFrame) -> str:
    model, backbone, b, start = case[len(COMPARED_AT) :]
    texts = [method_label(model, backbone), "" if pd.isna(b) else f"b = {b}", start, describe_scope(rows)]
    return ", ".join(filter(None, texts))
