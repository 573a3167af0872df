"""Claims about validation loss: the rows of Table 1, the mini-batch size, the inner model and the backbone."""

import math
from itertools import pairwise
from typing import Any

import pandas as pd

from ttt.analysis.comparison import RunRole, methods, mini_batch_sizes
from ttt.analysis.labels import describe_scope
from ttt.analysis.store import Results
from ttt.analysis.table_1 import TABLE_1, table_1_runs
from ttt.claims.verdict import Part, equal, paired

PAIR = ["data", "data_digest", "size", "ctx", "seed"]
"""Columns that are equal for the runs of a pair."""

BIG_STEPS = (5, 6)
"""Rows of Table 1 with the largest steps: LN and residual, and the mini-batch."""

ROUNDING = math.log(15.235 / 15.225)
"""The largest difference in nats between losses whose perplexities both round to 15.23, as in Table 1."""

TTT_LINEAR, TTT_MLP = "ttt_linear", "ttt_mlp"
LINEAR_T, LINEAR_M = "ttt_linear transformer", "ttt_linear mamba"
MLP_T, MLP_M = "ttt_mlp transformer", "ttt_mlp mamba"


def table_1(results: Results) -> list[Part]:
    """Judge whether the loss changes from row to row in the direction of the stated perplexities."""
    losses, ids = _by_case(table_1_runs(results), "row")
    parts = []
    for row in sorted(TABLE_1, key=lambda row: (row not in BIG_STEPS, row)):
        steps = _differences(losses, row, row - 1)
        if not len(steps):
            continue
        run_ids = ids.loc[steps.index, [row - 1, row]].to_numpy().ravel()
        stated = TABLE_1[row].stated - TABLE_1[row - 1].stated
        if stated == 0:
            parts.append(equal(f"row {row} equals row {row - 1}, {_scope(steps)}", list(steps), run_ids, ROUNDING))
        else:
            side = "below" if stated < 0 else "above"
            name = f"row {row} ({TABLE_1[row].text}) {side} row {row - 1}, {_scope(steps)}"
            parts.append(paired(name, list(steps), run_ids, sign=-1 if stated < 0 else 1))
    return parts


def smaller_mini_batches(results: Results) -> list[Part]:
    """Judge for TTT-Linear (M) whether the loss at each mini-batch size is below the loss at the next larger one."""
    rows = mini_batch_sizes(results)
    losses, ids = _by_case(rows[(rows["backbone"] == "mamba") & (rows["start"] == "")], "mini_batch_size")
    parts = []
    for small, large in pairwise(sorted(losses.columns.astype(int))):
        steps = _differences(losses, small, large)
        if len(steps):
            run_ids = ids.loc[steps.index, [small, large]].to_numpy().ravel()
            parts.append(paired(f"b = {small} below b = {large}, {_scope(steps)}", list(steps), run_ids))
    return parts


def backbones(results: Results) -> list[Part]:
    """Judge whether TTT-MLP (T) is below TTT-Linear (T), and whether the Mamba backbone helps TTT-Linear more."""
    rows = methods(results)
    rows = rows[rows["model"].isin([TTT_LINEAR, TTT_MLP]) & (rows["start"] == "")]
    losses, ids = _by_case(rows.assign(case=rows["model"] + " " + rows["backbone"]), "case")
    linear, mlp = _differences(losses, LINEAR_M, LINEAR_T), _differences(losses, MLP_M, MLP_T)
    compared = {
        "TTT-MLP (T) below TTT-Linear (T)": ([MLP_T, LINEAR_T], _differences(losses, MLP_T, LINEAR_T)),
        "the Mamba backbone lowers TTT-Linear more than TTT-MLP": (
            [LINEAR_M, LINEAR_T, MLP_M, MLP_T],
            linear.sub(mlp).dropna(),
        ),
    }
    return [
        paired(f"{name}, {_scope(steps)}", list(steps), ids.loc[steps.index, cases].to_numpy().ravel())
        for name, (cases, steps) in compared.items()
        if len(steps)
    ]


def _by_case(rows: pd.DataFrame, case: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return loss and run_id of the drawn runs, by ``PAIR`` (index) and case (columns); infinite if diverged."""
    diverged = rows["role"] == RunRole.DIVERGED
    losses = rows["validation_loss"].astype(float).mask(diverged, math.inf)
    best = rows.assign(validation_loss=losses)[diverged | (rows["role"] == RunRole.DRAWN)]
    best = best.sort_values("validation_loss").drop_duplicates([*PAIR, case])
    tables = [best.pivot(index=PAIR, columns=case, values=name) for name in ("validation_loss", "run_id")]
    return tables[0], tables[1]


def _differences(losses: pd.DataFrame, lower: Any, higher: Any) -> pd.Series:
    """Return the differences of the pairs that have both cases."""
    if lower not in losses or higher not in losses:
        return losses.iloc[:0, :0].sum(axis="columns")
    return (losses[lower] - losses[higher]).dropna()


def _scope(differences: pd.Series) -> str:
    return describe_scope(differences.index.to_frame(index=False))
