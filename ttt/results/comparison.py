"""Which runs figures and claims compare, and which setting represents a method that was trained with several.

All figures and claims use the same rules:

- A method is a layer in a backbone with the settings of ``conf/model/`` and ``conf/size/``; settings in ``TRIED`` may
  differ. A run with other settings appears only in figures about these settings (Table 1, the mini-batch size).
- A run that starts from another run's weights is a separate method: ``FINETUNED``.
- Runs of one size are compared if they planned the same number of tokens: the number that most methods and contexts of
  the size have.
- If a method was trained with several settings, such as learning rates, one represents it: among the settings run with
  the most seeds, the one with the lowest mean validation loss over the seeds they share. A one-seed search therefore
  never replaces the setting it selected. A setting with a diverged seed comes last.
"""

from collections.abc import Callable, Hashable, Mapping, Set
from enum import StrEnum
from functools import cache
from typing import cast

import pandas as pd
import yaml

from ttt.config.assets import assets
from ttt.config.layers import SHIPPED
from ttt.results.store import Results

FINETUNED = "finetuned"
"""``variant`` of a method that starts from another run's weights."""

SIZE = ["data", "data_digest", "size"]
"""Columns of runs that saw the same text with the same recipe."""

METHOD = ["model", "backbone", "variant"]
"""Columns of a method, ``variant`` being empty or ``FINETUNED``."""

TRIED = {"model.rope_base"}
"""Settings of a layer for which the paper reports the best of several values."""

NOT_LEARNED_FROM = {"kernel.name", "data.eval_tokens"}
"""Settings that give a run another id but do not change what it learns."""

DIVERGENCE = r"became (?:nan|-?inf)|not finite|diverged"
"""Matches the error of a run that diverged."""


class Role(StrEnum):
    """The role of a run in a figure: drawn, or the reason why it is not."""

    DRAWN = "drawn"
    OTHER_SETTING = "another setting of this method is better"
    DIVERGED = "diverged"
    UNEVALUATED = "no evaluation"
    OTHER_LENGTH = "planned for another number of tokens"
    NO_PARENT = "the run that it starts from is missing"


@cache
def standard(group: str, name: str) -> dict[str, str]:
    """Return the settings of ``conf/GROUP/NAME.yaml`` as text, with a layer's schema defaults; none without a file."""
    file = assets() / "conf" / group / f"{name}.yaml"
    if not file.is_file():
        return {}
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if group == "model":
        values = (vars(SHIPPED[name]()) if name in SHIPPED else {}) | values["model"]
    return {f"{group}.{key}": str(value) for key, value in values.items() if not isinstance(value, dict)}


def departures(settings: Mapping[str, str], group: str, name: str) -> set[str]:
    """Return the keys of a run's ``model`` or ``size`` whose values differ from ``conf/``, without ``TRIED``."""
    usual = standard(group, name)
    return {key for key in usual.keys() & settings.keys() - TRIED if settings[key] != usual[key]}


def methods(results: Results) -> pd.DataFrame:
    """Return the runs of standard methods at standard sizes, with the columns that ``compare`` adds."""
    runs = results.runs[is_standard(results, "model") & is_standard(results, "size")]
    return compare(results, runs, METHOD)


def mini_batch_sizes(results: Results) -> pd.DataFrame:
    """Return the runs of TTT-Linear that differ from the standard at most in ``mini_batch_size``, as ``methods``."""
    runs = results.runs
    wanted = is_standard(results, "model", {"model.mini_batch_size"}) & is_standard(results, "size")
    return compare(results, runs[wanted & (runs["model"] == "ttt_linear")], [*METHOD, "mini_batch_size"])


def is_standard(results: Results, group: str, aside: Set[str] = frozenset()) -> pd.Series:
    """Mark the runs whose ``model`` or ``size`` has the settings of ``conf/``, except for the settings ``aside``."""
    pairs = zip(results.runs["run_id"], results.runs[group], strict=True)
    usual = [departures(results.settings[run_id], group, name) <= aside for run_id, name in pairs]
    return pd.Series(usual, index=results.runs.index, dtype=bool)


def compare(
    results: Results,
    rows: pd.DataFrame,
    method: list[str],
    length: Callable[[pd.DataFrame], Hashable] | None = None,
) -> pd.DataFrame:
    """Add to rows of ``results.runs`` their role in a figure.

    Args:
        results: where the rows come from.
        rows: some of its runs.
        method: columns that identify a method among runs with the same data, size and context.
        length: chooses, from runs of one size, the number of planned tokens at which runs are compared;
            ``usual_length`` by default.

    Returns:
        The rows with ``variant``: empty or ``FINETUNED``; ``tokens_planned``; ``flops``: of training, including those
        of the run that it starts from; ``setting``: a text that is equal for runs that differ only in seed; and
        ``role``: a ``Role``.
    """
    rows = rows.assign(
        variant=rows["parent"].notna().map({True: FINETUNED, False: ""}).astype("string"),
        tokens_planned=rows["steps_planned"] * rows["tokens_per_step"],
        setting=[_learned_from(results.settings[run_id]) for run_id in rows["run_id"]],
        role=Role.DRAWN.value,
    )
    of_parent = rows["parent"].map(results.runs.set_index("run_id")["training_flops"]).astype("Float64")
    rows["flops"] = (rows["training_flops"] + of_parent.where(rows["parent"].notna(), 0.0)).astype(float)
    rows.loc[rows["flops"].isna(), "role"] = Role.NO_PARENT
    diverged = (rows["status"] == "failed") & rows["error"].fillna("").str.contains(DIVERGENCE)
    evaluated = (rows["status"] == "finished") & rows["validation_loss"].notna()
    rows.loc[~evaluated, "role"] = Role.UNEVALUATED
    rows.loc[diverged, "role"] = Role.DIVERGED
    for _, group in rows[rows["parent"].isna()].groupby(SIZE, dropna=False):
        others = group.index[group["tokens_planned"] != (length or usual_length)(group)]
        rows.loc[others, "role"] = Role.OTHER_LENGTH
    for _, group in rows[rows["role"].isin([Role.DRAWN, Role.DIVERGED])].groupby(
        [*SIZE, "ctx", *dict.fromkeys([*method, "variant"])], dropna=False
    ):
        worse = group.index[(group["setting"] != _best_setting(group)) & (group["role"] == Role.DRAWN)]
        rows.loc[worse, "role"] = Role.OTHER_SETTING
    return rows.reset_index(drop=True)


def _learned_from(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items() if key not in NOT_LEARNED_FROM)


def usual_length(group: pd.DataFrame) -> Hashable:
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


def longest_shared(group: pd.DataFrame) -> Hashable:
    """Return the largest number of tokens planned by at least two methods of the ``group``, else by any method."""
    methods = group.drop_duplicates(["tokens_planned", *METHOD])["tokens_planned"].value_counts()
    shared = methods[methods > 1]
    return cast(Hashable, max(shared.index if len(shared) else methods.index))


def _best_setting(group: pd.DataFrame) -> str:
    if group["setting"].nunique() == 1:
        return str(group["setting"].iloc[0])
    losses = group.pivot_table(index="seed", columns="setting", values="validation_loss", aggfunc="mean", dropna=False)
    lost = set(group.loc[group["role"] == Role.DIVERGED, "setting"])
    whole = losses[[setting for setting in losses if setting not in lost]]
    losses = whole if whole.notna().any(axis=None) else losses
    losses = losses.loc[:, losses.count() == losses.count().max()]
    shared = losses.dropna(axis="index")
    means = (shared if len(shared) else losses).mean()
    return str(means.idxmin()) if means.notna().any() else ""
