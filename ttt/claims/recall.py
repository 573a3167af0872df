"""The claim about recall, from the share of right answers on associative recall (``data=mqar``)."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import LAYERS, describe_scope, method_label
from ttt.analysis.recall import answering_runs
from ttt.analysis.store import Results
from ttt.claims.cases import SCOPE
from ttt.claims.verdict import Part, paired, unmeasured
from ttt.config.errors import counted

ORDER = ("ttt_mlp", "ttt_linear", "linear_attention")
"""Layers, the one that is claimed to recall most first."""

SETTING = [*SCOPE, "pairs", "heads"]
"""Columns that are equal for the runs of a setting: they read the same sequences with as many heads."""

RULE = (
    "Runs are of one width and backbone. An effect is a difference of shares of right answers, of each seed the mean "
    "over the settings (numbers of pairs, lengths and numbers of heads) that both methods have with every seed; the "
    "learning rate and the inner rate of each method are the best by validation loss of those that were tried. A run "
    "that answers at most twice as often right as a guess among the values of a sequence has not learned the task "
    "(with fewer than three pairs: at most halfway from this guess to all). A setting that a run of either method has "
    "not learned is left out, and the part's name says so; a part without settings is not resolved."
)
"""The rule for the verdict of claim 9, besides the rule for all claims."""


def more_recall(results: Results) -> list[Part]:
    """Judge for each two neighbours in ``ORDER`` whether the first gives more right answers."""
    rows = answering_runs(results)
    rows = rows[rows["model"].isin(ORDER) & (rows["start"] == "")]
    rows = rows[rows["role"].isin([RunRole.DRAWN, RunRole.DIVERGED])]
    of_width = [results.labels[run_id].departures_of("size") <= {"size.heads"} for run_id in rows["run_id"]]
    rows = rows[np.array(of_width, dtype=bool)]
    diverged = rows["role"] == RunRole.DIVERGED
    rows = rows.assign(
        accuracy=rows["accuracy"].mask(diverged, math.inf),
        learned=(rows["accuracy"] > rows["pairs"].map(most_unlearned)) | diverged,
    )
    rows = rows.sort_values("validation_loss").drop_duplicates([*SETTING, "seed", "backbone", "model"])
    return [
        part
        for _, group in rows.groupby(["data", "size", "backbone"])
        for pair in pairwise(ORDER)
        if set(pair) <= set(group["model"])
        for part in _compared(group[group["model"].isin(pair)], *pair)
    ]


def most_unlearned(pairs: int) -> float:
    """Return the largest share of right answers of a run that has not learned the task: see ``RULE``."""
    guess = 1 / pairs
    return guess + min(guess, (1 - guess) / 2)


def _compared(rows: pd.DataFrame, more: str, less: str) -> list[Part]:
    """Compare two methods of one size and backbone on the settings for which both have a run with every seed."""
    shares = rows.pivot(index="seed", columns=[*SETTING, "model"], values="accuracy").dropna(axis="columns")
    shared = rows.set_index(SETTING)
    shared = shared[[{(*key, more), (*key, less)} <= {*shares.columns} for key in shared.index]]
    if not len(shared):
        return []
    failed = shared[~shared["learned"]]
    kept = shared[~shared.index.isin(failed.index)].reset_index()
    name = f"{method_label(more, str(rows['backbone'].iloc[0]))} above {LAYERS[less]}: right answers"
    without = _failures(failed.reset_index())
    if not len(kept):
        return [unmeasured(f"{name}, {_words(shared.reset_index())}: {without}", shared["run_id"])]
    means = kept.pivot_table(index="seed", columns="model", values="accuracy", aggfunc="mean")
    name = f"{name}, {_words(kept)}" + (f"; left out: {without}" if without else "")
    return [paired(name, (means[more] - means[less]).tolist(), kept["run_id"], "1", sign=1)]


def _failures(failed: pd.DataFrame) -> str:
    """Describe the settings that some run did not learn; empty if all runs have learned."""
    parts = [
        f"{LAYERS[str(model)]} did not learn {_count(pairs, 'pair')} with {_count(heads, 'head')}"
        for (model, pairs, heads), _ in failed.groupby(["model", "pairs", "heads"])
    ]
    return ", ".join(parts)


def _words(rows: pd.DataFrame) -> str:
    """Describe settings: ``8 to 24 pairs, 1 to 4 heads (mean of 5 settings), mqar w64 at 32, 64, 96, test``."""
    settings = len(rows[SETTING].drop_duplicates())
    texts = [
        _count(rows[name].min(), noun)
        if rows[name].nunique() == 1
        else f"{rows[name].min()} to {_count(rows[name].max(), noun)}"
        for name, noun in (("pairs", "pair"), ("heads", "head"))
    ]
    mean = f" (mean of {settings} settings)" if settings > 1 else ""
    return f"{', '.join(texts)}{mean}, {describe_scope(rows)}" + (", test" if rows["split"].iloc[0] == "test" else "")


def _count(number: object, noun: str) -> str:
    return counted(int(str(number)), noun)
