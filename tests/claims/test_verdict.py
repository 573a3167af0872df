import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ttt.claims.student import critical, two_sided_p
from ttt.claims.table import numbers
from ttt.claims.verdict import Part, Verdict, corrected, interval, near, paired, pairs_needed, together

HELD, REVERSED, UNRESOLVED = Verdict.HELD, Verdict.REVERSED, Verdict.UNRESOLVED


def verdict(differences: list[float]) -> Verdict:
    (part,) = corrected([paired("x", differences, [])])
    return part.verdict


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-0.30, -0.27, -0.32], HELD),
        ([0.30, 0.27, 0.32], REVERSED),
        ([-0.013, 0.005, -0.006], UNRESOLVED),
        # Beyond twice the standard error, but three pairs need 4.3 times.
        ([-0.02, -0.05, -0.08], UNRESOLVED),
        ([-0.3], UNRESOLVED),
        ([0.3], UNRESOLVED),
        ([0.0, 0.0], UNRESOLVED),
        ([-1.0, math.inf, -1.0], UNRESOLVED),
        # One pair of another sign among many does not hide the effect.
        ([-0.3, -0.2, -0.25, -0.3, -0.2, 0.01], HELD),
    ],
)
def test_a_claim_that_differences_are_negative(differences: list[float], expected: Verdict) -> None:
    assert verdict(differences) == expected


def test_a_claimed_sign_of_plus_turns_the_verdict() -> None:
    parts = [paired("x", [0.2, 0.21, 0.2], [], sign=sign) for sign in (1, -1)]
    assert [part.verdict for part in corrected(parts)] == [HELD, REVERSED]


def test_the_interval_is_students() -> None:
    """Of 1, 2, 3: 2 ± 4.3027 / sqrt(3)."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2, pytest.approx(4.30265 / math.sqrt(3), rel=1e-5))
    assert mean - low == pytest.approx(high - mean)
    assert all(map(math.isnan, interval([1.0])[1:]))


@pytest.mark.parametrize(("df", "value"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (30, 2.0423), (10_000, 1.9602)])
def test_critical_values_are_those_of_tables(df: int, value: float) -> None:
    assert critical(df) == pytest.approx(value, abs=5e-5)
    assert two_sided_p(value, df) == pytest.approx(0.05, abs=1e-5)


def test_holms_correction_is_for_the_parts_of_one_claim() -> None:
    """Each part has p = 0.03, which is enough for a claim of one part and not for a claim of two."""
    t = 5.64
    weak = [-1 - math.sqrt(3) / t, -1.0, -1 + math.sqrt(3) / t]
    assert verdict(weak) == HELD
    parts = [paired("x", weak, []), paired("y", weak, []), paired("one pair is no test", [-1.0], [])]
    assert {part.verdict for part in corrected(parts)} == {UNRESOLVED}


def test_a_part_names_what_diverged() -> None:
    part = paired("x", [-1.0, math.inf], ["a"])
    assert part.name == "x: something diverged"
    assert math.isnan(part.effect)
    assert part.run_ids == ("a",)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1e-5, -1e-5], HELD),
        ([0.2, 0.21, 0.2], REVERSED),
        ([-0.2, -0.21, -0.2], REVERSED),
        ([0.2, -0.2], UNRESOLVED),
        ([0.0], UNRESOLVED),
    ],
)
def test_equality_within_a_tolerance(differences: list[float], expected: Verdict) -> None:
    assert near("x", differences, [], paper=0.0, tolerance=0.02).verdict == expected


def test_pairs_that_would_resolve_an_effect() -> None:
    """An effect of one standard deviation takes 10 pairs for 80% power (Cohen 1988, two-sided 5%)."""
    assert pairs_needed(1.0, [0.0, math.sqrt(2)]) == 10
    assert pairs_needed(0.1, [0.0, math.sqrt(2)]) == pytest.approx(787, abs=2)
    assert pairs_needed(1.0, [1.0]) is None
    assert pairs_needed(0.0, [0.0, 1.0]) is None


def test_parts_give_the_verdict_of_a_claim() -> None:
    assert together([HELD, HELD]) == HELD
    assert together([HELD, UNRESOLVED]) == UNRESOLVED
    assert together([REVERSED, UNRESOLVED]) == REVERSED
    assert together([HELD, UNRESOLVED, REVERSED]) == Verdict.MIXED
    assert together([]) == Verdict.NO_RUNS


def simulated(effect: float, pairs: int, claims: int = 120, parts: int = 6) -> list[list[Part]]:
    """Judge claims with normal differences of standard deviation 1."""
    generator = np.random.default_rng(0)
    drawn = generator.normal(effect, 1.0, (claims, parts, pairs))
    return [corrected([paired("x", differences, []) for differences in claim]) for claim in drawn.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [2, 3, 10])
def test_without_effects_few_claims_have_a_reversed_part(pairs: int) -> None:
    """The rate is at most 2.5%; 5% leaves room for the chance of 120 simulated claims."""
    reversed_ = [any(part.verdict == REVERSED for part in claim) for claim in simulated(0.0, pairs)]
    assert np.mean(reversed_) <= 0.05


@pytest.mark.slow
def test_more_seeds_never_lower_the_power() -> None:
    held = [
        np.mean([part.verdict == HELD for claim in simulated(-1.0, pairs, claims=40) for part in claim])
        for pairs in (3, 5, 7, 10, 20)
    ]
    assert all(more >= fewer for fewer, more in pairwise(held)), held
    assert held[-1] > 0.9


@pytest.mark.parametrize(("spread", "verdict"), [(None, REVERSED), (0.02, REVERSED), (0.047, UNRESOLVED)])
def test_documents_resolve_nothing_within_the_spread_of_seeds(spread: float | None, verdict: Verdict) -> None:
    part = replace(paired("x", [0.045, 0.046, 0.047] * 5, [], counted="document"), spread=spread)
    (judged,) = corrected([part])
    assert judged.verdict == verdict
    assert numbers(judged).endswith("another seed might change the sign") == (verdict == UNRESOLVED)
