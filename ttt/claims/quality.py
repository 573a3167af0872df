"""Claims about validation loss: the rows of Table 1, the mini-batch size, the inner model and the backbone."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ttt.analysis.comparison import RunRole, methods, mini_batch_sizes
from ttt.analysis.labels import describe_scope
from ttt.analysis.store import Results
from ttt.analysis.table_1 import TABLE_1, stated_step, table_1_runs
from ttt.claims.verdict import Part, near, paired

SCOPE = ["data", "data_digest", "size", "ctx"]
"""Columns that are equal for the runs of a part: the same text, size and context."""

PAIR = [*SCOPE, "seed"]
"""Columns that are equal for the runs of a pair."""

BIG_STEPS = (5, 6)
"""Rows of Table 1 with the largest steps: LN and residual, and the mini-batch."""

TOLERANCE = 0.02
"""Nats per token: a row of Table 1 whose stated step is below half of it must have a step within it."""

PER_DOUBLING = math.log(TABLE_1[5].stated / TABLE_1[6].stated) / math.log2(2048 / 16)
"""The paper's rise of the loss per doubling of b, in nats, from b = T = 2048 to 16 in Table 1."""

LEAST_SIZES = 3
"""The least number of mini-batch sizes that a trend is read from."""

TTT_LINEAR, TTT_MLP = "ttt_linear", "ttt_mlp"
LINEAR_T, LINEAR_M = "ttt_linear transformer", "ttt_linear mamba"
MLP_T, MLP_M = "ttt_mlp transformer", "ttt_mlp mamba"


def table_1(results: Results) -> list[Part]:
    """Judge the step of the loss from row to row of Table 1, by its stated perplexities."""
    losses, ids = _by_case(table_1_runs(results), "row")
    parts = []
    for row in sorted(TABLE_1, key=lambda row: (row not in BIG_STEPS, row)):
        for scope, steps in _differences(losses, row, row - 1):
            run_ids = ids.loc[steps.index, [row - 1, row]].to_numpy().ravel()
            stated = stated_step(row) if row > 1 else 0.0
            if abs(stated) < TOLERANCE / 2:
                name = f"row {row} ({TABLE_1[row].text}) within {TOLERANCE} of row {row - 1}, {scope}"
                parts.append(near(name, list(steps), run_ids, stated, TOLERANCE))
            else:
                name = f"row {row} ({TABLE_1[row].text}) below row {row - 1}, {scope}"
                parts.append(paired(name, list(steps), run_ids, paper=stated))
    return parts


def smaller_mini_batches(results: Results) -> list[Part]:
    """Judge for TTT-Linear (M) whether the loss rises with the logarithm of the mini-batch size."""
    rows = mini_batch_sizes(results)
    losses, ids = _by_case(rows[(rows["backbone"] == "mamba") & (rows["start"] == "")], "mini_batch_size")
    parts = []
    for _, of_scope in losses.groupby(SCOPE):
        sizes = of_scope.dropna(axis="columns", how="all").columns
        whole = of_scope[sizes].dropna()
        if len(sizes) < LEAST_SIZES or whole.empty:
            continue
        slopes = [_slope(np.log2(sizes.astype(float)), seed.to_numpy(float)) for _, seed in whole.iterrows()]
        span = f"b = {', '.join(map(str, map(int, sizes)))}"
        name = f"the loss rises with log2 b, {span}, {_scope(whole)}"
        run_ids = ids.loc[whole.index, sizes].to_numpy().ravel()
        unit = "nats/token per doubling"
        parts.append(paired(name, slopes, run_ids, unit, PER_DOUBLING, sign=1))
    return parts


def backbones(results: Results) -> list[Part]:
    """Judge whether TTT-MLP (T) is below TTT-Linear (T), and whether the Mamba backbone helps TTT-Linear more."""
    rows = methods(results)
    rows = rows[rows["model"].isin([TTT_LINEAR, TTT_MLP]) & (rows["start"] == "")]
    losses, ids = _by_case(rows.assign(case=rows["model"] + " " + rows["backbone"]), "case")
    parts = [
        paired(f"TTT-MLP (T) below TTT-Linear (T), {scope}", list(steps), _runs(ids, steps, MLP_T, LINEAR_T))
        for scope, steps in _differences(losses, MLP_T, LINEAR_T)
    ]
    mlp = dict(_differences(losses, MLP_M, MLP_T))
    for scope, linear in _differences(losses, LINEAR_M, LINEAR_T):
        steps = linear.sub(mlp.get(scope, linear.iloc[:0])).dropna()
        if len(steps):
            name = f"the Mamba backbone lowers TTT-Linear more than TTT-MLP, {scope}"
            parts.append(paired(name, list(steps), _runs(ids, steps, LINEAR_M, LINEAR_T, MLP_M, MLP_T)))
    return parts


def _by_case(rows: pd.DataFrame, case: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return loss and run_id of the drawn runs, by ``PAIR`` (index) and case (columns); infinite if diverged."""
    diverged = rows["role"] == RunRole.DIVERGED
    losses = rows["validation_loss"].astype(float).mask(diverged, math.inf)
    best = _named_texts(rows.assign(validation_loss=losses))[diverged | (rows["role"] == RunRole.DRAWN)]
    best = best.sort_values("validation_loss").drop_duplicates([*PAIR, case])
    tables = [best.pivot(index=PAIR, columns=case, values=name) for name in ("validation_loss", "run_id")]
    return tables[0], tables[1]


def _differences(losses: pd.DataFrame, lower: Any, higher: Any) -> Iterator[tuple[str, pd.Series]]:
    """Yield each scope in words with the differences of its pairs, if there are any."""
    if lower in losses and higher in losses:
        for _, differences in (losses[lower] - losses[higher]).dropna().groupby(SCOPE):
            yield _scope(differences), differences


def _runs(ids: pd.DataFrame, differences: pd.Series, *cases: str) -> Iterator[str]:
    yield from ids.loc[differences.index, list(cases)].to_numpy().ravel()


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if np.isfinite(y).all() else math.inf


def _scope(rows: pd.DataFrame | pd.Series) -> str:
    return describe_scope(rows.index.to_frame(index=False))


def _named_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the digest to the names of data that have several, such as of other packages or of joined documents."""
    several = rows.groupby("data")["data_digest"].transform("nunique") > 1
    short = rows["data_digest"].str.replace(r"^([^ ]{6})[^ ]*", r"\1", regex=True)
    return rows.assign(data=rows["data"].mask(several, rows["data"] + " (" + short + ")"))
