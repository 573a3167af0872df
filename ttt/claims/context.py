"""Claims about long contexts, from losses on the same tokens with more and less context (``probe=context_gain``)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import numpy as np
import pandas as pd

from ttt.analysis.context_gain import SAME_TARGETS, context_losses
from ttt.analysis.labels import FINETUNED, describe_scope, method_label
from ttt.analysis.store import Results
from ttt.claims.bootstrap import LEAST_SEEDS, over_documents
from ttt.claims.copying import told_apart
from ttt.claims.verdict import Part, paired, unmeasured

TTT = ("ttt_linear", "ttt_mlp")
"""Layers for which the paper claims that they use long contexts better than Mamba."""

TRANSFORMER = "transformer"

RULE = (
    "Losses are of the same tokens: the last 256 of windows of validation documents, chosen from the documents alone; "
    "of test documents if the name says so. The unit is the seed; with fewer than three seeds, the document."
)
"""The rule for the verdicts of claims 4, 7 and 8, besides the rule for all claims."""

BySeed = dict[int, pd.Series]
"""Seed -> a number of each document, indexed by document."""


def far_context(results: Results) -> list[Part]:
    """Judge whether own context gains more over another document's at the longest context than at the second measured.

    Each layer of ``TTT`` is judged by itself and in contrast to Mamba.
    """
    parts = []
    for scope, rows in _scopes(context_losses(results)):
        learners = rows[rows["model"].isin(TTT) & (rows["start"] == "")]
        longest = rows[rows["ctx"] == learners["ctx"].max()]
        growths = {name: _by_seed(runs, _growth) for name, runs in _methods(longest, [*TTT, "mamba"])}
        contexts = sorted(longest["context"].unique())
        mamba = growths.pop("Mamba", {})
        for name, growth in growths.items():
            ids = _ids(longest, name, "Mamba")
            if len(contexts) < 3:
                parts.append(unmeasured(f"{name}: no more than c = {contexts[-1]:,}; 1,792 is needed, {scope}", ids))
                continue
            span = f"at c = {contexts[-1]:,} than at {contexts[1]:,}"
            parts.append(_part(f"{name}: own context gains more over a foreign one {span}, {scope}", growth, ids, 1))
            contrast = f"{name} less Mamba: the same growth, {scope}"
            parts.append(_part(contrast, _less(growth, mamba), ids, 1, missing="Mamba"))
    return parts


def against_mamba(results: Results) -> list[Part]:
    """Judge whether the loss of each TTT layer (M) less Mamba's, each at its full context, falls with the context."""
    parts = []
    for scope, rows in _scopes(_at_full_context(context_losses(results)), with_ctx=False):
        rows = rows[rows["start"] == ""]
        rows_of_mamba = rows[rows["model"] == "mamba"]
        mamba = _by_context(rows_of_mamba)
        for name, runs in _methods(rows[rows["backbone"] == "mamba"], TTT):
            ids = _ids(rows, name, "Mamba")
            less = {ctx: _less(losses, mamba.get(ctx, {})) for ctx, losses in _by_context(runs).items()}
            contexts, seeds = _most_seeds({ctx: set(by_seed) for ctx, by_seed in less.items()})
            claim = f"{name} less Mamba falls with log2 T"
            if len(contexts) < 2:
                have = ", ".join(f"{ctx:,}" for ctx, by_seed in less.items() if by_seed) or "none"
                parts.append(
                    unmeasured(f"{claim}: both at two contexts on the same targets, have T = {have}, {scope}", ids)
                )
                continue
            slopes = {seed: _slope({ctx: less[ctx][seed] for ctx in contexts}) for seed in seeds}
            span = ", ".join(f"{ctx:,}" for ctx in contexts)
            part = _part(f"{claim}, T = {span}, {scope}", slopes, ids, -1, "nats/token per doubling")
            compared = pd.concat([runs.assign(case=name), rows_of_mamba.assign(case="Mamba")])
            compared = compared[compared["ctx"].isin(contexts) & compared["seed"].isin(seeds)]
            copies = compared.groupby(["seed", "ctx", "case"])["copies"].first().unstack()
            parts.append(told_apart(part, copies, counted="run"))
    return parts


def finetuning(results: Results) -> list[Part]:
    """Judge whether a Transformer finetuned at a context is below one that was trained at it only."""
    rows = _at_full_context(context_losses(results))
    rows = rows[(rows["model"] == TRANSFORMER) & (rows["backbone"] == TRANSFORMER)]
    parts = []
    for _, of_ctx in rows.groupby("ctx"):
        for scope, runs in _scopes(of_ctx):
            finetuned, trained = (_by_seed(runs[runs["start"] == start], _losses) for start in (FINETUNED, ""))
            if finetuned:
                less = _less(finetuned, trained)
                ids = list(runs["run_id"].unique())
                parts.append(_part(f"TF finetune below TF pretrain, {scope}", less, ids, -1, missing="TF pretrain"))
    return parts


def _scopes(rows: pd.DataFrame, with_ctx: bool = True) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each scope in words with the losses that compare."""
    for _, group in rows.groupby(SAME_TARGETS, observed=True):
        first = group.iloc[0]
        words = describe_scope(group[group["ctx"] == group["ctx"].max()])
        text = words if with_ctx else f"{first['data']} {first['size']}"
        yield text + (", test" if first["split"] == "test" else ""), group


def _methods(rows: pd.DataFrame, models: Iterable[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the label and the losses of each method of these layers that starts from random weights."""
    for model in models:
        chosen = rows[(rows["model"] == model) & (rows["start"] == "")]
        for backbone, group in chosen.groupby("backbone"):
            yield method_label(model, cast(str, backbone)), group


def _at_full_context(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the losses of each run with its own, full context."""
    own = rows[(rows["control"] == "own") & (rows["longest"] >= rows["ctx"])]
    return own[own["context"] == own.groupby("run_id")["context"].transform("max")]


def _by_context(rows: pd.DataFrame) -> dict[int, BySeed]:
    return {cast(int, ctx): _by_seed(runs, _losses) for ctx, runs in rows.groupby("ctx")}


def _by_seed(rows: pd.DataFrame, number: Callable[[pd.DataFrame], pd.Series]) -> BySeed:
    """Return a number of each document for every seed; seeds for which it does not exist are left out."""
    found = {cast(int, seed): number(run).dropna() for seed, run in rows.groupby("seed")}
    return {seed: values for seed, values in found.items() if len(values)}


def _losses(run: pd.DataFrame) -> pd.Series:
    return run.set_index("document")["loss"]


def _growth(run: pd.DataFrame) -> pd.Series:
    """Return foreign less own loss at the longest context, less the same at the second context."""
    losses = run.pivot(index="document", columns=["control", "context"], values="loss")
    if not {"own", "foreign"} <= set(run["control"]):
        return pd.Series(dtype=float)
    gains = losses["foreign"] - losses["own"]
    contexts = sorted(run["context"].unique())
    return gains[contexts[-1]] - gains[contexts[1]]


def _less(first: BySeed, second: BySeed) -> BySeed:
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def _most_seeds(seeds_of: Mapping[int, set[int]]) -> tuple[list[int], list[int]]:
    """Return the contexts, two or more, that most seeds share, of equally many the most contexts, and these seeds."""
    seeds = set().union(*seeds_of.values())
    choices = {tuple(sorted(ctx for ctx in seeds_of if seed in seeds_of[ctx])) for seed in seeds}
    shared = {
        contexts: sorted(set.intersection(*(seeds_of[ctx] for ctx in contexts)))
        for contexts in choices
        if len(contexts) > 1
    }
    if not shared:
        return [], []
    best = max(sorted(shared), key=lambda contexts: (len(shared[contexts]), len(contexts)))
    return list(best), shared[best]


def _slope(losses: Mapping[int, pd.Series]) -> pd.Series:
    """Return each document's slope over log2 of the context."""
    table = pd.DataFrame(dict(losses)).dropna()
    slopes = np.polyfit(np.log2(table.columns.to_numpy(float)), table.to_numpy(float).T, 1)[0]
    return pd.Series(slopes, index=table.index)


def _ids(rows: pd.DataFrame, *names: str) -> list[str]:
    labels = [method_label(model, backbone) for model, backbone in zip(rows["model"], rows["backbone"], strict=True)]
    return list(rows.loc[np.isin(labels, names), "run_id"].unique())


def _part(
    name: str, by_seed: BySeed, run_ids: list[str], sign: int, unit: str = "nats/token", missing: str = ""
) -> Part:
    """Return the part over seeds, or over documents for fewer than ``LEAST_SEEDS``.

    ``missing`` names the method without which there is no part.
    """
    if not by_seed:
        return unmeasured(f"{name}: {missing or 'the control'} is missing on these targets", run_ids)
    seeds = len(by_seed)
    if seeds < LEAST_SEEDS:
        of_documents = pd.DataFrame(by_seed).dropna().mean(axis="columns")
        return over_documents(name, list(of_documents), run_ids, unit, sign=sign, seeds=seeds)
    means = [float(values.mean()) for values in by_seed.values()]
    return paired(name, means, run_ids, unit, sign=sign, counted="seed")
