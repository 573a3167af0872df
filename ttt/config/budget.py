"""The schema of ``sweeps/budgets/``: parts of sweeps and benchmarks for a limited time on one GPU, best first."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ttt.config.errors import UserError, bad_value

KEYS = ("minutes", "shares", "first", "then")
KEYS_OF_A_PART = ("what", "sweep", "bench", "with", "longest", "minutes")

SHORTEST_PROBED = 512
"""``NEAR`` of ``ttt.evaluate.context_gain``, which imports torch: the shortest window of its probe."""

UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Part:
    """Runs of a sweep of ``scale=gpu``, or a benchmark.

    Attributes:
        what: a few words for the plan.
        sweep: the sweep's name, or None.
        bench: the benchmark of ``ttt-bench``, or None.
        words: overrides, as on the command line of ``ttt-sweep submit`` or ``ttt-bench``.
        longest: ``longest`` of ``ttt-eval probe=context_gain`` for each run of the sweep, or None: no probe.
        minutes: estimated time of a benchmark, which is not calibrated.
    """

    what: str
    sweep: str | None
    bench: str | None
    words: tuple[str, ...]
    longest: int | None
    minutes: float


@dataclass(frozen=True)
class Budget:
    """A file of ``sweeps/budgets/``.

    Attributes:
        name: of the file.
        seconds: the time.
        shares: shares of the tokens of each run to choose from, the largest first.
        first: the parts that belong together: the largest share is taken at which all of them fit.
        then: further parts, for the time that is left.
    """

    name: str
    seconds: float
    shares: tuple[float, ...]
    first: tuple[Part, ...]
    then: tuple[Part, ...]


def read_budget(name: str, plain: Mapping[str, Any]) -> Budget:
    """Build the budget from the content of its YAML file.

    Raises:
        UserError: a key is missing or unknown, or a value is of the wrong type.
    """
    _check_keys(plain, KEYS, f"budget={name}")
    first, then = (_parts(name, key, plain.get(key, [])) for key in ("first", "then"))
    if not first:
        raise UserError(f"budget={name}: first is empty: give at least one part")
    minutes, shares = plain.get("minutes"), plain.get("shares", [1])
    if not _is_positive(minutes):
        raise UserError(f"budget={name}: minutes={minutes}: must be a number above 0")
    if not isinstance(shares, list) or not shares or not all(_is_positive(share) and share <= 1 for share in shares):
        raise UserError(f"budget={name}: shares={shares}: must be a list of numbers above 0 and at most 1")
    return Budget(name, 60 * cast(float, minutes), tuple(sorted(map(float, shares), reverse=True)), first, then)


def seconds_of(key: str, text: str) -> float:
    """Return the seconds of a time such as ``90s``, ``55m`` or ``1.5h``; ``key`` gave it.

    Raises:
        UserError: it is no such time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or float(found[1]) == 0:
        raise bad_value(key, text, "must be a time such as 90s, 55m or 8h")
    return float(found[1]) * UNITS[found[2]]


def _parts(name: str, key: str, plain: object) -> tuple[Part, ...]:
    if not isinstance(plain, list):
        raise UserError(f"budget={name}: {key}={plain}: must be a list of parts")
    return tuple(_part(f"budget={name}: {key}[{number}]", part) for number, part in enumerate(plain))


def _part(where: str, plain: object) -> Part:
    if not isinstance(plain, dict):
        raise UserError(f"{where} is {plain!r}: must map keys to values")
    _check_keys(plain, KEYS_OF_A_PART, where)
    sweep, bench = plain.get("sweep"), plain.get("bench")
    if (sweep is None) == (bench is None):
        raise UserError(f"{where}: must have one of sweep and bench")
    minutes, longest = plain.get("minutes", 0), plain.get("longest")
    if bench is not None and not _is_positive(minutes):
        raise UserError(f"{where}: minutes={minutes}: must be the estimated minutes of the benchmark")
    if longest is not None and (bench is not None or not _is_width(longest)):
        least = f"must be a power of two, at least {SHORTEST_PROBED}"
        raise UserError(f"{where}: longest={longest}: {least}, and belongs to a sweep")
    words = tuple(shlex.split(str(plain.get("with", ""))))
    return Part(str(plain.get("what", sweep or bench)), sweep, bench, words, longest, float(minutes))


def _is_width(value: object) -> bool:
    return isinstance(value, int) and value >= SHORTEST_PROBED and value & (value - 1) == 0


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _check_keys(plain: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in plain:
        if key not in known:
            raise UserError(f"{where}: {key}: no such key; choose one of {', '.join(known)}")
