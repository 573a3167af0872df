"""Losses on the same tokens by context, of the runs that represent their methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttt.analysis.comparison import SIZE, RunRole, compare, is_standard, longest_shared
from ttt.analysis.labels import METHOD

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

RUN_COLUMNS = ["run_id", *SIZE, "ctx", *METHOD, "changed", "seed", "parameters", "copies"]

SAME_TARGETS = [*SIZE, "targets"]
"""Columns that are equal for losses that compare: the same text and size, and the same tokens."""


def context_losses(results: Results) -> DataFrame:
    """Return the losses of the probe ``context_gain`` with ``RUN_COLUMNS`` of their runs.

    Only runs of standard methods at standard sizes that were probed take part in the choice of settings; of several
    planned lengths, the longest that two methods share counts. The split is validation, or test for a run that has
    only test.
    """
    rows = results.context_gain
    on_validation = rows["split"] == "validation"
    validated = rows["run_id"].isin(rows.loc[on_validation, "run_id"].unique())
    rows = rows[on_validation | ~validated].astype({"run_id": "string", "control": "string", "targets": "string"})
    standard = is_standard(results, "model") & is_standard(results, "size")
    probed = results.runs["run_id"].isin(rows["run_id"].unique())
    runs = compare(results, results.runs[standard & probed], length=longest_shared)
    drawn = runs.loc[runs["role"] == RunRole.DRAWN, RUN_COLUMNS]
    # Runs that differ only in what has no influence, such as the kernel, are one.
    return rows.merge(drawn.drop_duplicates([*SIZE, "ctx", *METHOD, "seed"]), on="run_id")
