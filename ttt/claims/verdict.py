"""Verdicts from paired differences: a claim held, did not hold, or is not decided at this scale."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

RULE = (
    "A pair is two runs with the same data, size, context and seed. A part held if it has at least two pairs, every "
    "paired difference has the claimed sign, and their mean is further from zero than twice its standard error; it did "
    "not hold if the same is true with the opposite sign. Otherwise it is not decided at this scale. A claim held if "
    "all of its parts held, did not hold if one of them did not, and is otherwise not decided. If a run or an inner "
    "loop of a pair diverged, the part is marked so and is not decided."
)
"""The rule for verdicts."""


class Verdict(StrEnum):
    """The outcome of a claim or a part of it."""

    HELD = "held"
    FAILED = "did not hold"
    UNDECIDED = "not decided at this scale"
    NO_RUNS = "no runs"


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        name: the comparison, with its data, size and context.
        verdict: of this part.
        mean: of the paired differences, in ``unit``; negative as claimed unless ``name`` states otherwise.
        spread: their standard deviation; NaN for a single pair.
        pairs: the number of pairs, or of the things that ``counted`` names.
        unit: nats/token, 1, ...
        run_ids: the runs or benchmarks that were compared.
        counted: singular noun for ``pairs``.
    """

    name: str
    verdict: Verdict
    mean: float
    spread: float
    pairs: int
    unit: str
    run_ids: tuple[str, ...]
    counted: str = "pair"


def paired(
    name: str, differences: Sequence[float], run_ids: Iterable[str], unit: str = "nats/token", sign: int = -1
) -> Part:
    """Judge the claim that all ``differences`` have this ``sign``. There must be at least one."""
    return _part(name, differences, run_ids, unit, judge([-sign * difference for difference in differences]))


def equal(name: str, differences: Sequence[float], run_ids: Iterable[str], tolerance: float) -> Part:
    """Judge the claim that ``differences`` (nats/token) are zero within ``tolerance``.

    It held if none is larger. It did not hold if by ``judge`` they exceed the tolerance with one sign.
    """
    if all(abs(difference) <= tolerance for difference in differences):
        verdict = Verdict.HELD
    else:
        sides = [judge([side * difference + tolerance for difference in differences]) for side in (-1, 1)]
        verdict = Verdict.FAILED if Verdict.HELD in sides else Verdict.UNDECIDED
    return _part(name, differences, run_ids, "nats/token", verdict)


def judge(differences: Sequence[float]) -> Verdict:
    """Apply ``RULE`` to the claim that differences are negative; undecided if one is not finite."""
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return Verdict.UNDECIDED
    mean = statistics.fmean(differences)
    beyond = abs(mean) > 2 * statistics.stdev(differences) / math.sqrt(len(differences))
    if beyond and max(differences) < 0:
        return Verdict.HELD
    return Verdict.FAILED if beyond and min(differences) > 0 else Verdict.UNDECIDED


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a claim from the verdicts of its parts."""
    if not verdicts:
        return Verdict.NO_RUNS
    if Verdict.FAILED in verdicts:
        return Verdict.FAILED
    return Verdict.HELD if set(verdicts) == {Verdict.HELD} else Verdict.UNDECIDED


def _part(name: str, differences: Sequence[float], run_ids: Iterable[str], unit: str, verdict: Verdict) -> Part:
    if not all(map(math.isfinite, differences)):
        return Part(f"{name}: something diverged", verdict, math.nan, math.nan, len(differences), unit, tuple(run_ids))
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    return Part(name, verdict, statistics.fmean(differences), spread, len(differences), unit, tuple(run_ids))
