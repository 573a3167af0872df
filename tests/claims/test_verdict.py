import math

import pytest

from ttt.claims.verdict import Verdict, equal, judge, paired, together

HELD, FAILED, UNDECIDED = Verdict.HELD, Verdict.FAILED, Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.30, -0.27, -0.32], HELD),
        ([0.30, 0.27, 0.32], FAILED),
        ([-0.013, 0.005, -0.006], UNDECIDED),
        ([-0.3], UNDECIDED),
        ([0.3], UNDECIDED),
        # One sign, but the mean is within twice its standard error.
        ([-0.01, -0.5], UNDECIDED),
        ([-1.0, math.inf, -1.0], UNDECIDED),
    ],
)
def test_a_claim_that_differences_are_negative(differences: list[float], verdict: Verdict) -> None:
    assert judge(differences) == verdict


def test_a_claimed_sign_of_plus_turns_the_verdict() -> None:
    assert paired("x", [0.2, 0.21], ["a"], sign=1).verdict == HELD
    assert paired("x", [0.2, 0.21], ["a"]).verdict == FAILED


def test_a_part_has_mean_spread_and_pairs_and_says_what_diverged() -> None:
    part = paired("x", [-1.0, -3.0], ["a", "b"])
    assert (part.mean, part.spread, part.pairs, part.run_ids) == (-2, pytest.approx(math.sqrt(2)), 2, ("a", "b"))
    diverged = paired("x", [-1.0, math.inf], ["a"])
    assert diverged.name == "x: something diverged"
    assert math.isnan(diverged.mean)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [([1e-5, -1e-5], HELD), ([0.2, 0.21], FAILED), ([-0.2, -0.21], FAILED), ([0.2, -0.2], UNDECIDED)],
)
def test_equality_within_a_tolerance(differences: list[float], verdict: Verdict) -> None:
    assert equal("x", differences, [], tolerance=1e-3).verdict == verdict


def test_one_part_that_did_not_hold_fails_the_claim() -> None:
    assert together([HELD, HELD]) == HELD
    assert together([HELD, UNDECIDED]) == UNDECIDED
    assert together([HELD, UNDECIDED, FAILED]) == FAILED
    assert together([]) == Verdict.NO_RUNS
