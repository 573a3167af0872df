"""The choice of the runs that figures and claims compare, and of the setting that represents a method.

All figures and claims use the same rules:

- A method is a layer in a backbone with the settings of ``conf/model/`` and ``conf/size/``; settings in ``TRIED`` may
  differ. A run with other settings appears only in figures about these settings (Table 1, the mini-batch size).
- Runs that start from another run's weights are a separate method.
- Runs of one size are compared if they planned the same number of tokens: the number that is most common among the
  methods and contexts of that size.
- A run that ``trainer.max_steps`` has stopped before the end of its schedule is not compared, unless the command asks
  for it (``--stopped``): then it counts as if its schedule had ended there.
- If a method was trained with several settings, such as learning rates, one represents it: among the settings run with
  the most seeds, the one with the lowest mean validation loss over the seeds they share. A one-seed search therefore
  never replaces the setting it selected. A setting with a diverged seed comes last.
- Settings are chosen by validation loss. The losses that are shown are of the test split if all runs that are compared
  have a test result, otherwise of validation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Set
from enum import StrEnum
from typing import TYPE_CHECKING, cast

import numpy as np

from ttt.analysis.labels import METHOD
from ttt.config.label import TRIED

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

SIZE = ["data", "data_digest", "size"]
"""Columns of runs that saw the same text with the same recipe."""

NOT_LEARNED_FROM = {"kernel.name", "data.eval_tokens"}
"""Settings that give a run another id but do not change what it learns."""


class RunRole(StrEnum):
    """The role of a run in a figure: drawn, or the reason why it is not."""

    DRAWN = "drawn"
    OTHER_SETTING = "another setting of this method is better"
    DIVERGED = "diverged"
    STOPPED = "stopped by trainer.max_steps before the end of its schedule"
    UNEVALUATED = "no evaluation at the end of its schedule"
    OTHER_LENGTH = "planned for another number of tokens"
    NO_PARENT = "the run that it starts from is missing"
    OTHER_SEED = "a seed that other points lack"
    OTHER_TEXT = "another text of this name"


def methods(results: Results) -> DataFrame:
    """Return the runs of standard methods at standard sizes, with the columns that ``compare`` adds."""
    return compare(results, results.runs[is_standard(results, "model") & is_standard(results, "size")])


def mini_batch_sizes(results: Results) -> DataFrame:
    """Return the runs of TTT-Linear that differ from the standard at most in ``mini_batch_size``, as ``methods``."""
    chosen = is_standard(results, "model", {"model.mini_batch_size"}) & is_standard(results, "size")
    rows = results.runs[chosen & (results.runs["model"] == "ttt_linear").to_numpy(bool)]
    return compare(results, rows, [*METHOD, "mini_batch_size"])


def is_standard(results: Results, group: str, aside: Set[str] = frozenset()) -> np.ndarray:
    """Mark the runs whose ``model`` or ``size`` has the settings of ``conf/``, ignoring the settings ``aside``.

    Returns:
        bool [runs].
    """
    labels = (results.labels[run_id] for run_id in results.runs["run_id"])
    return np.array([label.departures_of(group) - TRIED <= aside for label in labels], dtype=bool)


def is_whole(runs: DataFrame) -> Series:
    """Mark the rows of ``results.runs`` that are finished and were trained to the end of their schedule.

    With ``trainer.max_steps``, a run can be finished before that: ``is_stopped``.
    """
    return (runs["status"] == "finished") & (runs["steps"] >= runs["steps_planned"]).fillna(False)


def is_stopped(runs: DataFrame) -> Series:
    """Mark the rows of ``results.runs`` that ``trainer.max_steps`` has ended before the end of their schedule."""
    return (runs["status"] == "finished") & ~is_whole(runs)


def compare(
    results: Results,
    rows: DataFrame,
    method: list[str] = METHOD,
    length: Callable[[DataFrame], Hashable] | None = None,
) -> DataFrame:
    """Add to rows of ``results.runs`` their role in a figure.

    Args:
        results: all runs.
        rows: some rows of ``results.runs``.
        method: columns that identify a method among runs with the same data, size and context.
        length: chooses, from runs of one size, the number of planned tokens at which runs are compared;
            ``usual_length`` by default.

    Returns:
        The rows with ``changed``: empty; ``tokens_planned``; ``flops``: of training, including the training of the
        run that it starts from; ``setting``: a text that is equal for runs that differ only in seed; and ``role``: a
        ``RunRole``.
    """
    rows = rows.assign(
        changed="",
        tokens_planned=rows["steps_planned"] * rows["tokens_per_step"],
        setting=[_learned_from(results.settings[run_id]) for run_id in rows["run_id"]],
        role=RunRole.DRAWN.value,
    )
    of_parent = rows["parent"].map(results.runs.set_index("run_id")["training_flops"]).astype("Float64")
    rows["flops"] = (rows["training_flops"] + of_parent.where(rows["parent"].notna(), 0.0)).astype(float)
    rows.loc[rows["flops"].isna(), "role"] = RunRole.NO_PARENT
    rows.loc[~(is_whole(rows) & rows["validation_loss"].notna()), "role"] = RunRole.UNEVALUATED
    rows.loc[is_stopped(rows), "role"] = RunRole.STOPPED
    rows.loc[rows["status"] == "diverged", "role"] = RunRole.DIVERGED
    for _, group in rows[rows["parent"].isna()].groupby(SIZE, dropna=False):
        others = group.index[group["tokens_planned"] != (length or usual_length)(group)]
        rows.loc[others, "role"] = RunRole.OTHER_LENGTH
    for _, group in rows[rows["role"].isin([RunRole.DRAWN, RunRole.DIVERGED])].groupby(
        [*SIZE, "ctx", *dict.fromkeys([*method, "start"])], dropna=False
    ):
        worse = group.index[(group["setting"] != _best_setting(group)) & (group["role"] == RunRole.DRAWN)]
        rows.loc[worse, "role"] = RunRole.OTHER_SETTING
    return rows.reset_index(drop=True)


def reported_split(rows: DataFrame) -> str:
    """Return the split whose losses are shown of the drawn ``rows``: test, or validation.

    It is test if all of them were evaluated on test, those of one context on equally many tokens.
    """
    drawn = rows[rows["role"] == RunRole.DRAWN]
    tokens = drawn.groupby(["data_digest", "ctx"], dropna=False)["test_tokens"].nunique()
    tested = len(drawn) and drawn["test_loss"].notna().all() and tokens.max() <= 1
    return "test" if tested else "validation"


def _learned_from(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items() if key not in NOT_LEARNED_FROM)


def usual_length(group: DataFrame) -> Hashable:
    """Return the number of tokens planned by most methods and contexts of the ``group``; the larger one in a tie."""
    cases = group.drop_duplicates(["tokens_planned", "ctx", *METHOD])
    return cast(
        Hashable,
        cases["tokens_planned"]
        .value_counts()
        .reset_index()
        .sort_values(["count", "tokens_planned"])["tokens_planned"]
        .iloc[-1],
    )


def longest_shared(group: DataFrame) -> Hashable:
    """Return the largest number of tokens planned by at least two methods of the ``group``, else by any method."""
    methods = group.drop_duplicates(["tokens_planned", *METHOD])["tokens_planned"].value_counts()
    shared = methods[methods > 1]
    return cast(Hashable, max(shared.index if len(shared) else methods.index))


def _best_setting(group: DataFrame) -> str:
    if group["setting"].nunique() == 1:
        return str(group["setting"].iloc[0])
    losses = group.pivot_table(index="seed", columns="setting", values="validation_loss", aggfunc="mean", dropna=False)
    lost = set(group.loc[group["role"] == RunRole.DIVERGED, "setting"])
    whole = losses[[setting for setting in losses if setting not in lost]]
    losses = whole if whole.notna().any(axis=None) else losses
    losses = losses.loc[:, losses.count() == losses.count().max()]
    shared = losses.dropna(axis="index")
    means = (shared if len(shared) else losses).mean()
    return str(means.idxmin()) if means.notna().any() else ""
