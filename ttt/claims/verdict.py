"""What follows from paired differences: whether a claim held, did not hold, or is not decided at this scale."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

RULE = (
    "Pairs are runs that share data, size, context and seed. A part held where it has two pairs or more, every paired "
    "difference has the claimed sign, and their mean is further from zero than twice its standard error; it did not "
    "hold where this is so with the other sign. Anything else is not decided at this scale. A claim held where all of "
    "its parts held, did not hold where one of them did not, and is not decided otherwise. Where a run or an inner "
    "loop of a pair diverged, the part says so and is not decided."
)
"""How verdicts come about."""


class Verdict(StrEnum):
    """What the runs say of a claim."""

    HELD = "held"
    FAILED = "did not hold"
    UNDECIDED = "not decided at this scale"
    NO_RUNS = "no runs"


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        name: what is compared, and at which data, size and context.
        verdict: of this part alone.
        mean: of the paired differences, in ``unit``; a negative one is as claimed unless ``name`` says otherwise.
        spread: their standard deviation; NaN for a single pair.
        pairs: how many there are.
        unit: nats/token, 1, ...
        run_ids: the runs, or the benchmarks, behind it.
    """

    name: str
    verdict: Verdict
    mean: float
    spread: float
    pairs: int
    unit: str
    run_ids: tuple[str, ...]


def paired(
    name: str, differences: Sequence[float], run_ids: Iterable[str], unit: str = "nats/token", sign: int = -1
) -> Part:
    """The part that says: all ``differences`` have this ``sign``. There must be one or more."""
    return _part(name, differences, run_ids, unit, judge([-sign * each for each in differences]))


def equal(name: str, differences: Sequence[float], run_ids: Iterable[str], tolerance: float) -> Part:
    """The part that says: ``differences`` (nats/token) vanish, by a ``tolerance``.

    It held where none is larger, and did not hold where ``judge`` finds them beyond it on one side.
    """
    if all(abs(each) <= tolerance for each in differences):
        verdict = Verdict.HELD
    else:
        sides = [judge([side * each + tolerance for each in differences]) for side in (-1, 1)]
        verdict = Verdict.FAILED if Verdict.HELD in sides else Verdict.UNDECIDED
    return _part(name, differences, run_ids, "nats/token", verdict)


def judge(differences: Sequence[float]) -> Verdict:
    """``RULE`` for a claim that differences are negative; with one that is not finite, nothing is decided."""
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return Verdict.UNDECIDED
    mean = statistics.fmean(differences)
    beyond = abs(mean) > 2 * statistics.stdev(differences) / math.sqrt(len(differences))
    if beyond and all(each < 0 for each in differences):
        return Verdict.HELD
    return Verdict.FAILED if beyond and all(each > 0 for each in differences) else Verdict.UNDECIDED


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of a claim with parts of these."""
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
