"""The bootstrap over documents: its interval, its error rate, and its refusal of few documents."""

import math

import numpy as np
import pytest

from ttt.claims.bootstrap import LEAST_DOCUMENTS, bootstrap, over_documents
from ttt.claims.student import critical, two_sided_p
from ttt.claims.verdict import Verdict, corrected


def test_of_many_normal_documents_it_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, 200)
    mean, low, high, p = bootstrap(list(values))
    error = values.std(ddof=1) / math.sqrt(200)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(critical(199) * error, rel=0.04)
    assert p == pytest.approx(two_sided_p(mean / error, 199), abs=0.03)
    assert bootstrap(list(values)) == (mean, low, high, p)


def test_the_long_tail_of_a_skewed_distribution_is_in_the_interval() -> None:
    _, low, high, _ = mean_of = bootstrap(list(np.random.default_rng(0).exponential(1.0, 30)))
    assert high - mean_of[0] > mean_of[0] - low


def test_equal_differences() -> None:
    assert bootstrap([0.5] * 12) == (0.5, 0.5, 0.5, 0.0)
    assert bootstrap([0.0] * 12) == (0.0, 0.0, 0.0, 1.0)


def test_few_documents_resolve_nothing() -> None:
    part = over_documents("x", [-1.0 - number / 100 for number in range(LEAST_DOCUMENTS - 1)], ["a"])
    assert (part.p, part.needed, part.counted) == (None, LEAST_DOCUMENTS, "document")
    assert math.isnan(part.low)
    part = over_documents("x", [-1.0 - number / 100 for number in range(LEAST_DOCUMENTS)], ["a"])
    assert corrected([part])[0].verdict == Verdict.HELD


@pytest.mark.slow
@pytest.mark.parametrize("skewed", [False, True])
def test_without_an_effect_few_comparisons_are_resolved(skewed: bool) -> None:
    """At most 5% nominally; the bootstrap of so few documents reaches about that for normal differences."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(300):
        drawn = generator.exponential(1.0, LEAST_DOCUMENTS) - 1 if skewed else generator.normal(0, 1, LEAST_DOCUMENTS)
        found.append(bootstrap(list(drawn))[3] <= 0.05)
    assert np.mean(found) <= 0.085
