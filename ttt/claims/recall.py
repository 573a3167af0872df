"""The claim about recall, from the share of right answers on associative recall (``data=mqar``)."""

import math
from itertools import pairwise

import numpy as np

from ttt.analysis.comparison import RunRole
from ttt.analysis.labels import LAYERS, describe_scope, method_label
from ttt.analysis.recall import answering_runs
from ttt.analysis.store import Results
from ttt.claims.cases import PAIR, SCOPE
from ttt.claims.verdict import Part, paired

ORDER = ("ttt_mlp", "ttt_linear", "linear_attention")
"""Layers, the one that is claimed to recall most first."""

RULE = (
    "Runs are of one width, backbone, vocabulary, length and number of pairs. An effect is a difference of shares of "
    "right answers; the learning rate of each method is the best by validation loss of those that were tried."
)
"""The rule for the verdict of claim 9, besides the rule for all claims."""


def more_recall(results: Results) -> list[Part]:
    """Judge for each two neighbours in ``ORDER`` whether the first gives more right answers."""
    rows = answering_runs(results)
    rows = rows[rows["model"].isin(ORDER) & (rows["start"] == "")]
    rows = rows[rows["role"].isin([RunRole.DRAWN, RunRole.DIVERGED])]
    # With several state sizes of a width, each method's standard one: the others are of changed sizes.
    changed = [bool(results.labels[run_id].departures_of("size")) for run_id in rows["run_id"]]
    rows = rows[~np.array(changed, dtype=bool)]
    rows = rows.assign(accuracy=rows["accuracy"].mask(rows["role"] == RunRole.DIVERGED, math.inf))
    rows = rows.sort_values("validation_loss").drop_duplicates([*PAIR, "backbone", "model"])
    parts = []
    for (*_, backbone), group in rows.groupby([*SCOPE, "backbone"]):
        shares, ids = (group.pivot(index="seed", columns="model", values=name) for name in ("accuracy", "run_id"))
        words = f"{group['pairs'].iloc[0]} pairs, {describe_scope(group)}"
        words += ", test" if group["split"].iloc[0] == "test" else ""
        for more, less in pairwise(ORDER):
            if {more, less} <= {*shares.columns}:
                both = shares[[more, less]].dropna()
                name = f"{method_label(more, str(backbone))} above {LAYERS[less]}: right answers, {words}"
                run_ids = list(ids.loc[both.index, [more, less]].to_numpy().ravel())
                differences = (both[more] - both[less]).tolist()
                parts += [paired(name, differences, run_ids, "1", sign=1)] if differences else []
    return parts
