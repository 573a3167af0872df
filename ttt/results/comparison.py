"""Which runs a figure or a claim compares, and which of them stands for a method where several settings were tried.

The rules, for all figures and claims alike:

- A method is a layer in a backbone with the settings of ``conf/model/`` and ``conf/size/``, whatever was tried for it
  in ``TRIED``. A run with other settings belongs to the figures that ask for them (Table 1, the mini-batch size) alone.
- A run that starts from another's weights is a method of its own: ``FINETUNED``.
- Runs of one size compare where they planned the same number of tokens: the number that most methods and contexts of
  the size have.
- Where a method was trained with several settings, such as learning rates, one stands for it: of those with the most
  seeds the best by validation loss, compared on the seeds that all of these have. So a search on one seed does not
  take the place of what was chosen by it and run with several. A setting of which a seed diverged comes last.
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
"""Settings of a layer of which the paper reports the better value."""

NOT_LEARNED_FROM = {"kernel.name", "data.eval_tokens"}
"""Settings that make a run another one, but not what it learns."""


class Role(StrEnum):
    """What a run is to a figure."""

    DRAWN = "drawn"
    OTHER_SETTING = "another setting of this method is better"
    DIVERGED = "diverged"
    UNEVALUATED = "no evaluation"
    OTHER_LENGTH = "planned for another number of tokens"
    NO_PARENT = "the run that it starts from is missing"


@cache
def standard(group: str, name: str) -> dict[str, str]:
    """The settings of ``conf/GROUP/NAME.yaml`` as text, with the schema's for a layer; none where there is no file."""
    file = assets() / "conf" / group / f"{name}.yaml"
    if not file.is_file():
        return {}
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if group == "model":
        values = (vars(SHIPPED[name]()) if name in SHIPPED else {}) | values["model"]
    return {f"{group}.{key}": str(value) for key, value in values.items() if not isinstance(value, dict)}


def departures(settings: Mapping[str, str], group: str, name: str) -> set[str]:
    """Keys of a run's ``model`` or ``size`` whose values are not those of ``conf/``, those of ``TRIED`` aside."""
    usual = standard(group, name)
    return {key for key in usual.keys() & settings.keys() - TRIED if settings[key] != usual[key]}


def methods(results: Results) -> pd.DataFrame:
    """The runs of standard methods at standard sizes: ``results.runs`` with the columns that ``compare`` adds."""
    runs = results.runs[is_standard(results, "model") & is_standard(results, "size")]
    return compare(results, runs, METHOD)


def mini_batch_sizes(results: Results) -> pd.DataFrame:
    """The runs of TTT-Linear that differ from the standard method in ``mini_batch_size`` at most, as ``methods``."""
    runs = results.runs
    wanted = is_standard(results, "model", {"model.mini_batch_size"}) & is_standard(results, "size")
    return compare(results, runs[wanted & (runs["model"] == "ttt_linear")], [*METHOD, "mini_batch_size"])


def is_standard(results: Results, group: str, aside: Set[str] = frozenset()) -> pd.Series:
    """For each run whether its ``model`` or ``size`` has the settings of ``conf/``, whatever those ``aside`` are."""
    pairs = zip(results.runs["run_id"], results.runs[group], strict=True)
    usual = [departures(results.settings[run_id], group, name) <= aside for run_id, name in pairs]
    return pd.Series(usual, index=results.runs.index, dtype=bool)


def compare(
    results: Results,
    rows: pd.DataFrame,
    method: list[str],
    length: Callable[[pd.DataFrame], Hashable] | None = None,
) -> pd.DataFrame:
    """Some rows of ``results.runs`` with what each is to a figure.

    Args:
        results: where the rows come from.
        rows: some of its runs.
        method: columns that tell apart what is compared at the same data, size and context.
        length: of some runs of one size the tokens planned by those that compare; ``usual_length`` by default.

    Returns:
        The rows with ``variant``: empty or ``FINETUNED``; ``tokens_planned``; ``flops``: of training, with those of the
        run that it starts from; ``setting``: what a seed has in common with the others of its line; and ``role``: a
        ``Role``.
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
    evaluated = (rows["status"] == "finished") & rows["validation_loss"].notna()
    rows.loc[~evaluated, "role"] = Role.UNEVALUATED
    rows.loc[rows["status"] == "diverged", "role"] = Role.DIVERGED
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
    """The number of tokens planned by most methods and contexts of the ``group``, of equals the larger one."""
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
    """The largest number of tokens planned by two methods or more of the ``group``, or by any where there is none."""
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
