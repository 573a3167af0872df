"""Claims about the loss: the rows of Table 1, the mini-batch size, the inner model and the backbone."""

import math

import numpy as np

from ttt.analysis.comparison import methods, mini_batch_sizes
from ttt.analysis.labels import method_label
from ttt.analysis.store import Results
from ttt.analysis.table_1 import BIG_STEPS, TABLE_1, stated_step, table_1_runs
from ttt.claims.cases import Cases
from ttt.claims.verdict import Part

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
    """Judge the step of the loss from row to row of Table 1, by its stated perplexities.

    Rows 7 and 8 are also TTT-Linear (T) and (M) of other figures; a scope without one of ``BIG_STEPS`` is no Table 1.
    """
    parts: list[Part] = []
    for cases in Cases.of(results, table_1_runs(results), "row", "row {}".format).scopes():
        if any(row in cases.losses.columns for row in BIG_STEPS):
            parts += _steps(cases)
    return parts


def _steps(cases: Cases) -> list[Part]:
    parts = []
    for row in sorted(TABLE_1, key=lambda row: (row not in BIG_STEPS, row)):
        stated = stated_step(row) if row > 1 else 0.0
        small = abs(stated) < TOLERANCE / 2
        relation = f"within {TOLERANCE} of" if small else "below"
        name = f"row {row} ({TABLE_1[row].text}) {relation} row {row - 1}"
        tolerance = TOLERANCE if small else None
        parts += cases.judge(name, {row: 1, row - 1: -1}, paper=stated, tolerance=tolerance)
    return parts


def smaller_mini_batches(results: Results) -> list[Part]:
    """Judge for TTT-Linear (M) whether the loss rises with the logarithm of the mini-batch size."""
    rows = mini_batch_sizes(results)
    rows = rows[(rows["backbone"] == "mamba") & (rows["start"] == "")]
    cases = Cases.of(results, rows, "mini_batch_size", "b = {}".format)
    parts = []
    for of_scope in cases.scopes():
        sizes = of_scope.losses.columns
        if len(sizes) < LEAST_SIZES:
            continue
        octaves = np.log2(sizes.to_numpy(float))
        octaves -= octaves.mean()
        # The slope of the line through the losses is their sum with these weights.
        weights = dict(zip(sizes, octaves / (octaves**2).sum(), strict=True))
        name = f"the loss rises with log2 b, b = {', '.join(map(str, map(int, sizes)))}"
        parts += of_scope.judge(name, weights, "nats/token per doubling", PER_DOUBLING, sign=1)
    return parts


def backbones(results: Results) -> list[Part]:
    """Judge whether TTT-MLP (T) is below TTT-Linear (T), and whether the Mamba backbone helps TTT-Linear more."""
    rows = methods(results)
    rows = rows[rows["model"].isin([TTT_LINEAR, TTT_MLP]) & (rows["start"] == "")]
    rows = rows.assign(case=rows["model"] + " " + rows["backbone"])
    cases = Cases.of(results, rows, "case", lambda case: method_label(*case.split()))
    helped_more = {LINEAR_M: 1, LINEAR_T: -1, MLP_M: -1, MLP_T: 1}
    return [
        *cases.judge("TTT-MLP (T) below TTT-Linear (T)", {MLP_T: 1, LINEAR_T: -1}),
        *cases.judge("the Mamba backbone lowers TTT-Linear more than TTT-MLP", helped_more),
    ]
