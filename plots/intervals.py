"""Error bars over documents, in pictures of runs that were judged on little text.

Shapes: D documents, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ttt.analysis.comparison import RunRole
from ttt.claims.student import critical
from ttt.config.errors import counted
from ttt.config.little_data import is_little

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

OF_THE_LOSS = ("loss", "perplexity", "bits_per_byte")
"""Measured values that follow from the loss, and so have an interval over documents."""

ENDS = ["low", "high", "judged_documents"]
"""Columns of ``with_intervals``."""


def half_widths(results: Results, split: str, run_ids: Collection[str]) -> dict[str, tuple[float, int]]:
    """Return run_id -> half of the 95% interval of its loss (nats/token), and the number of its documents.

    Only runs that were judged on little text of ``split`` (``ttt.config.little_data``) are in it. The loss is a ratio
    of sums over documents, so that its interval is that of a ratio (Cochran 1977, section 2.11), by Student's t. What
    the documents have in common for all runs on the same windows is taken out (Morey 2008): intervals tell the runs
    apart, and not easy from hard documents.
    """
    sizes = results.runs[["run_id", f"{split}_documents", f"{split}_tokens"]].dropna()
    little = {run_id for run_id, *size in sizes.itertuples(index=False, name=None) if is_little(*size)}
    chosen = results.documents["run_id"].isin(little & set(run_ids)) & (results.documents["split"] == split)
    found: dict[str, tuple[float, int]] = {}
    for _, rows in results.documents[chosen].groupby("windows", observed=True):
        found |= _of_windows(rows)
    return found


def half_widths_elsewhere(results: Results) -> DataFrame:
    """Return ``half_widths`` of evaluations at other contexts and on other texts that were judged on little text.

    Returns:
        One row per evaluation: run_id, evaluation, ``half_width`` (nats/token) and ``judged_documents``.
    """
    import pandas as pd

    found, columns = [], ["run_id", "evaluation"]
    for _, rows in results.elsewhere_documents.groupby(["windows", "evaluation"], observed=True):
        sizes = rows.groupby("run_id", observed=True)["tokens"].agg(["size", "sum"])
        little = rows[rows["run_id"].isin([run for run, *size in sizes.itertuples(name=None) if is_little(*size)])]
        found += [(run, rows["evaluation"].iloc[0], *half) for run, half in _of_windows(little).items()]
    return pd.DataFrame(found, columns=[*columns, "half_width", "judged_documents"])


def _of_windows(rows: DataFrame) -> dict[str, tuple[float, int]]:
    """Return ``half_widths`` of the runs whose losses on the same windows are ``rows``; empty for one document."""
    loss_DR = rows.pivot_table("loss", "document", "run_id", observed=True)
    tokens_D1 = rows.groupby("document")["tokens"].first().to_numpy(float)[:, None]
    D, R = loss_DR.shape
    if D < 2:
        return {}
    rests_DR = loss_DR.to_numpy() - tokens_D1 * loss_DR.to_numpy().sum(0) / tokens_D1.sum()
    if R > 1:
        rests_DR = (rests_DR - rests_DR.mean(1, keepdims=True)) * math.sqrt(R / (R - 1))
    errors_R = np.sqrt(D / (D - 1) * (rests_DR**2).sum(0)) / tokens_D1.sum()
    return {str(run): (critical(D - 1) * error, D) for run, error in zip(loss_DR, errors_R, strict=True)}


def with_intervals(results: Results, table: DataFrame, split: str, measure: str) -> DataFrame:
    """Return a table of runs with the columns ``ENDS``: the 95% interval of ``measure`` over documents.

    They are missing for runs with enough text, and left away if all runs have enough.

    Args:
        results: all runs.
        table: columns run_id and ``measure``; of a table with a column role only drawn runs have intervals.
        split: the split of the values.
        measure: one of ``OF_THE_LOSS``.
    """
    shown = table[table["role"] == RunRole.DRAWN] if "role" in table else table
    known = half_widths(results, split, set(shown["run_id"]))
    if not known:
        return table
    nothing = (math.nan, 0)
    half = np.array([known.get(run_id, nothing)[0] for run_id in table["run_id"]])
    value = table[measure].to_numpy(float)
    if measure == "perplexity":
        low, high = value * np.exp(-half), value * np.exp(half)
    else:
        loss = results.runs.set_index("run_id")[f"{split}_loss"].reindex(table["run_id"]).to_numpy(float)
        low, high = value * (1 - half / loss), value * (1 + half / loss)
    documents = [known.get(run_id, nothing)[1] for run_id in table["run_id"]]
    return table.assign(low=low, high=high, judged_documents=documents)


def spread_of(groups: Any, y: str) -> DataFrame:
    """Return mean, min, max and count of ``y`` over the runs of each group.

    With the columns ``ENDS``, min and max are at least as far apart as the mean interval over documents.
    """
    points = groups[y].agg(["mean", "min", "max", "count"]).astype(float)
    if "low" in groups.obj:
        ends = groups[["low", "high"]].mean().astype(float)
        points["min"] = np.fmin(points["min"], ends["low"])
        points["max"] = np.fmax(points["max"], ends["high"])
    return points


def intervals_sentence(table: DataFrame, bars: str = "bars include 95% intervals") -> str:
    """Return the sentence of a caption about error bars over documents, or an empty text; ``bars``: what they show."""
    documents = table.get("judged_documents")
    if documents is None:
        return ""
    fewest = int(documents[documents > 0].min())
    return f"Little data: {bars} over {counted(fewest, 'document')}, less what all runs share."
