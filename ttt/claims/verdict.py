"""Verdicts from paired differences: a part of a claim is held, reversed or not resolved."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ttt.claims.student import LEVEL, critical, power, two_sided_p
from ttt.results.copying import COPIES_BELOW

POWER = 0.8
"""The chance to resolve the paper's effect with the number of pairs that is stated as needed."""

MOST_PAIRS = 10_000

SEED_DEVIATIONS = 1.96
"""An effect that documents resolve must also be as many standard deviations over seeds, where these are known."""

RULE = (
    "A pair is two runs with the same data, size, context and seed; a run whose training ended before its schedule "
    "counts nowhere. An effect is the mean of the paired differences with its 95% confidence interval by Student's t. "
    "A part is held if the effect has the paper's sign, and reversed if it has the opposite sign, each only if it "
    "differs from zero at 5% after Holm's correction for all parts of the claim; otherwise it is not resolved. Where "
    "the paper's effect is too small to be measured, a part is held if the interval lies within the tolerance in its "
    "name, and reversed if it lies outside. A claim is held if all its parts are, and reversed if some are and none is "
    "held. If a run or an inner loop of a pair diverged, the part is marked so and is not resolved. Pairs needed: so "
    "many pairs of this spread resolve the paper's effect, or ours where the paper states no number, with 80% "
    "probability, at 5% without correction. Learning rates and other settings are chosen by validation loss. Losses "
    "are of the test split where all runs that are compared have a test result, and the part's name says 'test'; "
    "otherwise they are of validation. With fewer than three seeds, documents are the units if all runs of the part "
    "read the same windows: a studentised bootstrap of 10,000 resamples over at least 10 documents, in claims 1 to 3 "
    "with the weight of their tokens. Such a part says 'documents' in its name. The spread of seeds is not in its "
    "interval; where these results have it for other losses of a split, their standard deviation over seeds stands "
    f"beside the interval, and an effect of less than {SEED_DEVIATIONS} of them is not resolved. "
    f"A run copies from context if text that repeats costs it less than {COPIES_BELOW:.0%} of the same text at first "
    "reading. In claims 1, 2, 3 and 7 a part with a pair of which one run copies and another does not is not resolved, "
    "whatever its interval: the difference is that of the copying."
)
"""The rule for verdicts."""


class Verdict(StrEnum):
    """The outcome of a claim or a part of it."""

    HELD = "held"
    REVERSED = "reversed"
    MIXED = "held in part, reversed in part"
    UNRESOLVED = "not resolved"
    NO_RUNS = "no runs"


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    Attributes:
        name: the comparison, with its data, size and context.
        verdict: of this part.
        effect: mean of the differences, in ``unit``; NaN if something diverged.
        low: lower end of its 95% confidence interval; NaN for a single pair.
        high: upper end.
        paper: the paper's effect, in ``unit``; None if the paper states no number.
        pairs: the number of pairs, or of the things that ``counted`` names.
        needed: the number of pairs that would resolve the effect; None if it is resolved or cannot be estimated.
        unit: nats/token, 1, ...
        run_ids: the runs or benchmarks that were compared.
        p: probability of so large an effect, of either sign, if it were zero; None where no test of zero is made.
        claimed: sign of the effect that the claim states.
        counted: singular noun for ``pairs``.
        split: the split of the losses; empty if it is not about losses of one split.
        spread: standard deviation over pairs, in ``unit``; where documents are counted, over pairs of other parts;
            None if unknown.
        copying: which of the runs copy from context; empty if all do, none does, or it was not measured.
    """

    name: str
    verdict: Verdict
    effect: float
    low: float
    high: float
    paper: float | None
    pairs: int
    needed: int | None
    unit: str
    run_ids: tuple[str, ...]
    p: float | None = None
    claimed: int = -1
    counted: str = "pair"
    split: str = ""
    spread: float | None = None
    copying: str = ""

    @property
    def spread_elsewhere(self) -> float | None:
        """Return the spread of seeds in other parts, if the units of this part are documents; otherwise None."""
        return self.spread if self.counted == "document" else None

    @property
    def within_seeds(self) -> bool:
        """Return whether documents are the units, and another seed might change the sign of the effect."""
        return self.spread_elsewhere is not None and abs(self.effect) < SEED_DEVIATIONS * self.spread_elsewhere


def paired(
    name: str,
    differences: Sequence[float],
    run_ids: Iterable[str],
    unit: str = "nats/token",
    paper: float | None = None,
    sign: int = -1,
    counted: str = "pair",
) -> Part:
    """Return the part that ``differences``, at least one, have this ``sign``; ``corrected`` gives it a verdict.

    Args:
        name: the comparison.
        differences: of the pairs, in ``unit``.
        run_ids: the runs.
        unit: of the differences.
        paper: the paper's effect.
        sign: the claimed sign, -1 or 1.
        counted: singular noun for the differences.
    """
    ids, pairs = tuple(run_ids), len(differences)
    if not all(map(math.isfinite, differences)):
        diverged = f"{name}: something diverged"
        return Part(diverged, Verdict.UNRESOLVED, math.nan, math.nan, math.nan, paper, pairs, None, unit, ids)
    effect, low, high = interval(differences)
    needed = pairs_needed(effect if paper is None else paper, differences)
    p = p_value(differences)
    spread = statistics.stdev(differences) if pairs > 1 else None
    return Part(
        *(name, Verdict.UNRESOLVED, effect, low, high, paper, pairs, needed, unit, ids, p, sign, counted),
        spread=spread,
    )


def near(name: str, differences: Sequence[float], run_ids: Iterable[str], paper: float, tolerance: float) -> Part:
    """Judge the claim that ``differences`` (nats/token) are as small as the paper's: at most ``tolerance``."""
    return within(paired(name, differences, run_ids, paper=paper), tolerance)


def within(part: Part, tolerance: float) -> Part:
    """Judge the claim that the effect of ``part`` is at most ``tolerance``, of either sign, by its interval."""
    part = replace(part, p=None, needed=None)
    if math.isnan(part.low):
        return part
    if max(abs(part.low), abs(part.high)) <= tolerance:
        return replace(part, verdict=Verdict.HELD)
    outside = part.low > tolerance or part.high < -tolerance
    return replace(part, verdict=Verdict.REVERSED) if outside else part


def unmeasured(name: str, run_ids: Iterable[str]) -> Part:
    """Return a part for which runs or probes are missing, as ``name`` says."""
    nan = math.nan
    return Part(name, Verdict.UNRESOLVED, nan, nan, nan, None, 0, None, "nats/token", tuple(run_ids))


def corrected(parts: Sequence[Part]) -> list[Part]:
    """Return the parts of a claim with verdicts by Holm's method; those without a p value keep theirs.

    A part that is within the spread of seeds is not resolved.
    """
    order = sorted((part.p, number) for number, part in enumerate(parts) if part.p is not None)
    judged = list(parts)
    for rank, (p, number) in enumerate(order):
        if p * (len(order) - rank) > LEVEL:
            break
        part = parts[number]
        if part.within_seeds:
            continue
        verdict = Verdict.HELD if part.effect * part.claimed > 0 else Verdict.REVERSED
        judged[number] = replace(part, verdict=verdict, needed=None)
    return judged


def with_spread_of_seeds(parts: Sequence[Part], elsewhere: Sequence[Part]) -> list[Part]:
    """Add to parts of documents the root mean square of the spreads over seeds of other parts.

    The other parts have the same unit, and are like this one about losses of a split, or about other quantities.

    Args:
        parts: the parts of a claim; where they have a spread over seeds, only these count.
        elsewhere: the parts of all claims.
    """
    return [_with_spread(part, parts, elsewhere) if part.counted == "document" else part for part in parts]


def _with_spread(part: Part, *sources: Sequence[Part]) -> Part:
    for source in sources:
        spreads = [
            other.spread
            for other in source
            if other.spread is not None and other.counted in ("pair", "seed")
            if (other.unit, bool(other.split)) == (part.unit, bool(part.split))
        ]
        if spreads:
            return replace(part, spread=math.sqrt(statistics.fmean(spread**2 for spread in spreads)))
    return part


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a claim from the verdicts of its parts."""
    if not verdicts:
        return Verdict.NO_RUNS
    if Verdict.REVERSED in verdicts:
        return Verdict.MIXED if Verdict.HELD in verdicts else Verdict.REVERSED
    return Verdict.HELD if set(verdicts) == {Verdict.HELD} else Verdict.UNRESOLVED


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, lower and upper end of its 95% confidence interval; the ends are NaN for one difference."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.nan, math.nan
    half = critical(len(differences) - 1) * _standard_error(differences)
    return mean, mean - half, mean + half


def p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p value of Student's t test of a zero mean; None for one difference, 1 if all are zero."""
    if len(differences) < 2:
        return None
    if not any(differences):
        return 1.0
    error = _standard_error(differences)
    if error == 0:
        return 0.0
    return two_sided_p(statistics.fmean(differences) / error, len(differences) - 1)


def pairs_needed(effect: float, differences: Sequence[float]) -> int | None:
    """Return about how many pairs of this spread resolve an effect; None if unknown or above ``MOST_PAIRS``."""
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    if not spread or not effect:
        return None
    return _smallest(lambda pairs: power(abs(effect) / spread, pairs) >= POWER)


def _smallest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 to ``MOST_PAIRS`` for which a monotonic condition holds."""
    if not enough(MOST_PAIRS):
        return None
    below, found = 1, MOST_PAIRS
    while found - below > 1:
        middle = (below + found) // 2
        below, found = (below, middle) if enough(middle) else (middle, found)
    return found


def _standard_error(differences: Sequence[float]) -> float:
    return statistics.stdev(differences) / math.sqrt(len(differences))
