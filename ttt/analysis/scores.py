"""Scores of runs on tasks of lm-evaluation-harness, from their records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ttt.results.record import Record
from ttt.results.task_scores import main_metric

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

SCORE_COLUMNS = (
    "run_id",
    "name",
    "task",
    "metric",
    "score",
    "error",
    "main",
    "higher_is_better",
    "judged_ctx",
    "num_fewshot",
    "documents",
    "weights",
    "part_of",
)
"""Columns of ``Results.scores``. ``name`` is the key in the record, ``main`` whether figures draw this metric."""


def scores_table(records: Iterable[Record]) -> DataFrame:
    """Return one row per run, task and metric, with ``SCORE_COLUMNS``.

    ``error`` is the standard error, missing if there is none; ``weights`` and ``part_of`` are empty for the newest
    weights and for a task that was asked for by its own name.
    """
    import pandas as pd

    rows = [
        (
            record["run_id"],
            name,
            scored["task"],
            metric,
            value,
            scored["errors"].get(metric),
            metric == main_metric(scored),
            scored["higher_is_better"].get(metric, True),
            scored["ctx"],
            scored["num_fewshot"],
            scored["documents"],
            scored.get("weights", ""),
            scored.get("part_of", ""),
        )
        for record in records
        for name, scored in record.get("tasks", {}).items()
        for metric, value in scored["scores"].items()
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype({"score": "Float64", "error": "Float64"})


def scores_by_run(results: Results) -> DataFrame:
    """Return a column for each score, ``piqa acc_norm``, missing where a run lacks it; rows as in ``Results.runs``."""
    wide = results.scores.assign(column=results.scores["name"] + " " + results.scores["metric"])
    table = wide.pivot_table("score", "run_id", "column", sort=False).reindex(results.runs["run_id"])
    return table.reset_index(drop=True).rename_axis(columns=None)
