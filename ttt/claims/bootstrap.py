"""A bootstrap over documents, for comparisons of which there are fewer than three seeds."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ttt.claims.student import LEVEL
from ttt.claims.verdict import Part, Verdict, pairs_needed

RESAMPLES = 10_000

LEAST_SEEDS = 3
"""With fewer seeds documents are the units: two seeds have an interval of 12.7 standard errors, which decides less than
the documents of one of them."""

LEAST_DOCUMENTS = 10
"""With fewer documents the interval would be too narrow."""


def bootstrap(differences: Sequence[float], seed: int = 0) -> tuple[float, float, float, float]:
    """Return the mean, the ends of its 95% confidence interval and the two-sided p value of a zero mean.

    The bootstrap is studentised (Efron and Tibshirani 1993, section 12.5): documents are drawn with replacement, and
    each resample's distance from the mean is divided by its own standard error. Percentiles of the mean would give
    too narrow an interval for few documents.

    Args:
        differences: one paired difference per document, at least two.
        seed: of the resamples.
    """
    values = np.asarray(differences, float)
    n, mean, error = len(values), float(values.mean()), float(_error(values))
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    drawn = values[np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((drawn.mean(axis=1) - mean) / _error(drawn), posinf=math.inf, neginf=-math.inf)
    low, high = np.quantile(t, [LEVEL / 2, 1 - LEVEL / 2])
    beyond = min((t >= mean / error).mean(), (t <= mean / error).mean())
    p = min(1.0, 2 * max(float(beyond), 1 / RESAMPLES))
    return mean, mean - float(high) * error, mean - float(low) * error, p


def over_documents(
    name: str,
    differences: Sequence[float],
    run_ids: Iterable[str],
    unit: str = "nats/token",
    paper: float | None = None,
    sign: int = -1,
    seeds: int = 1,
) -> Part:
    """Return the part that ``differences`` of documents, means over the runs of ``seeds``, have this ``sign``.

    The name gets the numbers of seeds and documents. With fewer than ``LEAST_DOCUMENTS`` it has no interval and
    stays unresolved.
    """
    ids, n = tuple(run_ids), len(differences)
    name = f"{name}, {'one seed' if seeds == 1 else f'{seeds} seeds'}, {n} documents"
    if n < LEAST_DOCUMENTS:
        mean, none = float(np.mean(differences)), math.nan
        few = LEAST_DOCUMENTS
        return Part(name, Verdict.UNRESOLVED, mean, none, none, paper, n, few, unit, ids, None, sign, "document")
    mean, low, high, p = bootstrap(differences)
    needed = pairs_needed(mean if paper is None else paper, differences)
    return Part(name, Verdict.UNRESOLVED, mean, low, high, paper, n, needed, unit, ids, p, sign, "document")


def _error(values: np.ndarray) -> Any:
    """Return the standard error of the mean over the last axis."""
    return values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])
