"""Claims about the course of a sequence: the loss of later tokens, and the inner loss."""

from typing import cast

import pandas as pd

from ttt.analysis.comparison import is_standard
from ttt.analysis.labels import COMPARED_AT, describe_scope, method_label
from ttt.analysis.store import Results
from ttt.claims.verdict import Part, paired

LEARNERS = ("ttt_linear", "ttt_mlp", "transformer")
"""Layers for which the paper claims that later tokens keep getting easier."""

CASE = ["model", "backbone", "mini_batch_size", "start"]
"""Columns that identify the cases that are judged separately."""


def later_tokens(results: Results) -> list[Part]:
    """Judge whether context from before a reset lowers the loss of later tokens, and more so late in the sequence."""
    rows = _probed(results)
    parts = []
    for case, group in rows.groupby(CASE, dropna=False):
        gains = [_gains(run) for _, run in group.groupby("run_id", observed=True)]
        name, ids = _describe(cast(tuple, case), group), list(group["run_id"].unique())
        helps = f"context from before a reset lowers the loss, {name}"
        parts.append(paired(helps, [gain for gain, _ in gains], ids))
        late = [later for _, later in gains if later is not None]
        if late:
            grows = f"and more so in the last stretch between resets than in the second, {name}"
            parts.append(paired(grows, late, ids))
    return parts


def inner_loss(results: Results) -> list[Part]:
    """Judge loss(W_t) < loss(W_{t-1}) < loss(W_0), the last gap growing with t. Each layer of a run is a pair."""
    rows = results.select_inner_loss().merge(_with_case(results), on="run_id")
    parts = []
    for case, group in rows.groupby(CASE, dropna=False):
        layers = [layer for _, layer in group.groupby(["run_id", "layer"], observed=True)]
        name, ids = _describe(cast(tuple, case), group), list(group["run_id"].unique())
        after, before = ([_mean_step(layer, *names) for layer in layers] for names in STEPS)
        parts.append(paired(f"loss(W_t) below loss(W_t-1), {name}", after, ids, "1"))
        parts.append(paired(f"loss(W_t-1) below loss(W_0), {name}", before, ids, "1"))
        growth = [_growth(layer) for layer in layers]
        grows = f"loss(W_t-1) - loss(W_0) lower in the last quarter than in the first, {name}"
        parts.append(paired(grows, growth, ids, "1"))
    return parts


STEPS = (("loss_after", "loss_before"), ("loss_before", "loss_initial"))


def _mean_step(layer: pd.DataFrame, lower: str, higher: str) -> float:
    return float((layer[lower] - layer[higher]).mean())


def _growth(layer: pd.DataFrame) -> float:
    gap = layer["loss_before"] - layer["loss_initial"]
    last = layer["position"].max()
    late, early = gap[layer["position"] > 0.75 * last], gap[layer["position"] <= 0.25 * last]
    return float(late.mean() - early.mean())


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
    """Return run_id, ``COMPARED_AT`` and ``CASE`` of the runs of standard methods for all mini-batch sizes."""
    return results.runs.loc[is_standard(results, "model", {"model.mini_batch_size"}), ["run_id", *COMPARED_AT, *CASE]]


def _describe(case: tuple, rows: pd.DataFrame) -> str:
    model, backbone, b, start = case
    texts = [method_label(model, backbone), "" if pd.isna(b) else f"b = {b}", start, describe_scope(rows)]
    return ", ".join(filter(None, texts))
