"""Runs on data with answers (``data=mqar``) and the recall of planted lines (``probe=needle``), as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ttt.analysis.comparison import RunRole, compare, is_standard, reported_split
from ttt.analysis.labels import METHOD
from ttt.analysis.selection import only
from ttt.config.label import TRIED_IN_TEXT
from ttt.config.sources import WITH_ANSWERS, MQARConfig
from ttt.results.record import STATE_SIZE

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results


def has_answers(results: Results) -> np.ndarray:
    """Mark the runs that were trained on questions with answers instead of text: bool [runs]."""
    sources = [results.settings[run_id].get("data.source") for run_id in results.runs["run_id"]]
    return np.array([source in WITH_ANSWERS for source in sources], dtype=bool)


def on_text(results: Results) -> Results:
    """Return the results without runs on questions with answers, which the figures and claims about text leave out.

    Runs that the user has named stay.
    """
    asked = has_answers(results)
    if results.chosen or not asked.any():
        return results
    kept = only(results, set(results.runs.loc[~asked, "run_id"]))
    return replace(kept, benchmarks=results.benchmarks)


def answering_runs(results: Results) -> DataFrame:
    """Return the runs of standard layers on data with answers; the inner rate is one of the settings to search.

    Returns:
        The columns of ``ttt.analysis.comparison.compare``, ``pairs`` of a sequence, ``heads``, ``state_size`` (numbers
        in the state of one sequence, missing in runs of earlier versions), ``split`` and ``accuracy``: the share of
        right answers on this split, which is test if all drawn runs have it. Of several settings, such as learning
        rates, the best by validation loss of each method and state size is drawn.
    """
    rows = results.runs[has_answers(results) & is_standard(results, "model", TRIED_IN_TEXT)]
    if STATE_SIZE not in rows:
        rows = rows.assign(**{STATE_SIZE: np.nan})
    settings = [results.settings[run_id] for run_id in rows["run_id"]]
    rows = rows.assign(
        # Without the digest that tells several texts of one name apart: here the number of pairs does.
        data=[each["data.source"] for each in settings],
        pairs=[int(each.get("data.pairs", MQARConfig.pairs)) for each in settings],
        heads=[int(each.get("size.heads", 1)) for each in settings],
    )
    rows = compare(results, rows, [*METHOD, STATE_SIZE, "heads"])
    split = reported_split(rows)
    return rows.assign(split=split, accuracy=rows[f"{split}_accuracy"].astype(float))


def found_lines(results: Results) -> DataFrame:
    """Return the rows of ``Results.needle`` with the columns of their runs, of standard methods, that figures need.

    The split is validation, or test for a run that has only test.
    """
    rows = results.needle
    on_validation = rows["split"] == "validation"
    validated = rows["run_id"].isin(rows.loc[on_validation, "run_id"].unique())
    rows = rows[on_validation | ~validated].astype({"run_id": "string", "task": "string", "targets": "string"})
    probed = results.runs["run_id"].isin(rows["run_id"].unique())
    runs = compare(results, results.runs[probed & is_standard(results, "model") & is_standard(results, "size")])
    drawn = runs[runs["role"] == RunRole.DRAWN]
    return rows.merge(drawn.drop(columns=["role"]), on="run_id")
