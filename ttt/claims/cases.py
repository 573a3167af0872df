"""Losses of the runs that a claim compares, and comparisons of them: sums with a weight for each case.

Shapes: D documents.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ttt.analysis.comparison import RunRole, reported_split
from ttt.analysis.labels import describe_scope
from ttt.analysis.store import Results
from ttt.claims.bootstrap import LEAST_SEEDS, over_documents
from ttt.claims.copying import told_apart
from ttt.claims.verdict import Part, paired, within

SCOPE = ["data", "data_digest", "size", "ctx"]
"""Columns that are equal for the runs of a part: the same text, size and context."""

PAIR = [*SCOPE, "seed"]
"""Columns that are equal for the runs of a pair."""


@dataclass(frozen=True)
class Cases:
    """The runs of a claim.

    Attributes:
        losses: loss in nats/token by ``PAIR`` (index) and case (columns); infinite if the run diverged.
        ids: run_id, in the same table.
        copies: whether the run copies from context, in the same table; missing if it was not measured.
        named: returns the name of a case.
        splits: the split of the losses of each ``SCOPE``.
        documents: losses by document, indexed by run_id and split.
    """

    losses: pd.DataFrame
    ids: pd.DataFrame
    copies: pd.DataFrame
    named: Callable[[Any], str]
    splits: Mapping[Any, str]
    documents: pd.DataFrame

    @classmethod
    def of(cls, results: Results, rows: pd.DataFrame, case: str, named: Callable[[Any], str]) -> "Cases":
        """Return the drawn and diverged runs of ``rows``, returned by ``compare``, by their column ``case``.

        The best by validation of several runs of a pair and case counts. ``named`` returns the name of a case.
        """
        diverged = rows["role"] == RunRole.DIVERGED
        validated = rows["validation_loss"].astype(float).mask(diverged, np.inf)
        best = rows.assign(validation_loss=validated)[diverged | (rows["role"] == RunRole.DRAWN)]
        best = best.sort_values("validation_loss").drop_duplicates([*PAIR, case]).assign(loss=np.nan)
        splits = {}
        for scope, group in best.groupby(SCOPE):
            splits[scope] = split = reported_split(group)
            lost = group["role"] == RunRole.DIVERGED
            best.loc[group.index, "loss"] = group[f"{split}_loss"].astype(float).mask(lost, np.inf)
        losses, ids, copies = (
            best.pivot(index=PAIR, columns=case, values=name) for name in ("loss", "run_id", "copies")
        )
        documents = results.documents.astype({"run_id": "string", "split": "string", "windows": "string"})
        return cls(losses, ids, copies, named, splits, documents.set_index(["run_id", "split"]).sort_index())

    def scopes(self) -> Iterator["Cases"]:
        """Yield the runs of each scope, without cases that it does not have."""
        for _, losses in self.losses.groupby(SCOPE):
            yield replace(self, losses=losses.dropna(axis="columns", how="all"))

    def judge(
        self,
        name: str,
        weights: Mapping[Any, float],
        unit: str = "nats/token",
        paper: float | None = None,
        sign: int = -1,
        tolerance: float | None = None,
    ) -> list[Part]:
        """Judge in each scope the claim that the weighted sum of its cases' losses has this ``sign``.

        Seeds are the units. Where there are fewer than ``LEAST_SEEDS``, documents are, if all runs have losses of the
        same windows. Nothing is resolved between runs that copy from context and runs that do not.

        Args:
            name: the comparison, to which the scope is added.
            weights: case -> weight.
            unit: of the sum.
            paper: the paper's sum.
            sign: the claimed sign, -1 or 1.
            tolerance: if given, the claim is instead that the sum is at most so large, of either sign.
        """
        cases = list(weights)
        if not set(cases) <= set(self.losses.columns):
            return []
        parts = []
        for scope, losses in self.losses[cases].dropna().groupby(SCOPE):
            split = self.splits[scope]
            words = describe_scope(losses.index.to_frame(index=False))
            full_name = f"{name}, {words}" + (", test" if split == "test" else "")
            run_ids = list(self.ids.loc[losses.index, cases].to_numpy().ravel())
            sums = (losses.to_numpy(float) @ np.array([weights[case] for case in cases])).tolist()
            seeds, finite = len(sums), all(map(math.isfinite, sums))
            of_runs = [weight / seeds for weight in weights.values()] * seeds
            by_document = self._by_document(run_ids, of_runs, split) if seeds < LEAST_SEEDS and finite else None
            if by_document is None:
                part = paired(full_name, sums, run_ids, unit, paper, sign)
            else:
                part = over_documents(full_name, by_document, run_ids, unit, paper, sign, seeds)
            part = part if tolerance is None else within(part, tolerance)
            copies = self.copies.loc[losses.index, cases].rename(columns=self.named)
            parts.append(replace(told_apart(part, copies), split=split))
        return parts

    def _by_document(self, run_ids: list[str], weights: list[float], split: str) -> list[float] | None:
        """Return a number per document, whose mean is the weighted sum of the runs' losses; None: they do not compare.

        A loss per token is a ratio of sums over documents. Its numbers are linearised (Cochran 1977, section 6.3), so
        that their spread is right for documents of different lengths. Each is divided by one less its share of the
        tokens, as in the jackknife: the ratio follows a long document, so that its own deviation looks too small.
        Without this, 12% of comparisons without an effect were resolved at 5% in simulations, with it 8%.
        """
        tables = [self.documents.loc[[key]] for run_id in run_ids if (key := (run_id, split)) in self.documents.index]
        if len(tables) < len(run_ids) or len({window for table in tables for window in table["windows"]}) > 1:
            return None
        sums_D = np.sum([weight * table["loss"].to_numpy() for weight, table in zip(weights, tables, strict=True)], 0)
        tokens_D = tables[0]["tokens"].to_numpy()
        if len(tokens_D) < 2:
            return None
        ratio = sums_D.sum() / tokens_D.sum()
        rest_D = (sums_D - ratio * tokens_D) / tokens_D.mean() / (1 - tokens_D / tokens_D.sum())
        return list(ratio + rest_D - rest_D.mean())
