"""The choice of the parts of a budget that fit into its time, and the state that later calls go on from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ttt.config.errors import UserError
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

STATE_VERSION = 1


@dataclass(frozen=True)
class Price:
    """What is still to do of one part of a budget, in seconds on this device.

    Attributes:
        training: of the training of its runs, at their whole number of tokens.
        fixed: of everything that does not depend on the number of tokens: starts, evaluations, probes, benchmarks.
    """

    training: float
    fixed: float

    def seconds(self, share: float) -> float:
        """Return the seconds at a share of the tokens."""
        return share * self.training + self.fixed


PriceAfter = Callable[[int, Sequence[int]], Price | None]
"""Maps a part, by its index, and the parts done before it to what is then left of it; None: it is too large here."""


@dataclass(frozen=True)
class Choice:
    """The parts that fit.

    Attributes:
        share: share of the tokens of each run.
        parts: indices of the chosen parts, in their order.
        prices: of all parts, each after the chosen ones before it.
        seconds: of the chosen parts.
    """

    share: float
    parts: tuple[int, ...]
    prices: tuple[Price | None, ...]
    seconds: float


def choose_parts(price: PriceAfter, number: int, first: int, shares: Sequence[float], left: float) -> Choice:
    """Choose a share of the tokens, and the parts to do, in their order.

    The share is the largest at which the first parts fit together, or the smallest if they never do. At that share, a
    part is chosen if it fits into the time that the ones before it leave. Parts may share runs: a run costs nothing
    after a chosen part that makes it.

    Args:
        price: of a part.
        number: of parts, in order of worth.
        first: how many of them belong together.
        shares: shares to choose from, the largest first.
        left: seconds that are left.
    """
    together = dict[int, Price]()
    for index in range(first):
        if (found := price(index, tuple(together))) is not None:
            together[index] = found
    share = next((one for one in shares if sum(part.seconds(one) for part in together.values()) <= left), shares[-1])
    chosen, prices, used = list[int](), list[Price | None](), 0.0
    for index in range(number):
        found = price(index, chosen)
        prices.append(found)
        if found is not None and used + found.seconds(share) <= left:
            chosen.append(index)
            used += found.seconds(share)
    return Choice(share, tuple(chosen), tuple(prices), used)


@dataclass
class BudgetState:
    """What a call of ``ttt-sweep run`` leaves for the next, in ``budget.json``.

    Attributes:
        words: the words of the first call that decide what is run.
        share: the chosen share of tokens, which later calls keep, so that runs keep their ids; None: not chosen yet.
        spent: seconds of all calls so far.
        speeds: device -> shape of a run -> measured tokens per second.
        benchmarks: indices of the benchmarks that are done.
    """

    words: list[str]
    share: float | None = None
    spent: float = 0.0
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    benchmarks: list[int] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the state, all or nothing."""
        write_text(path, json.dumps({"schema_version": STATE_VERSION, **asdict(self)}, indent=1) + "\n")


def read_state(path: Path, words: list[str]) -> BudgetState:
    """Return the state in a file, or a new one if there is no file.

    Raises:
        UserError: the file is broken, or belongs to other words.
    """
    if not path.exists():
        return BudgetState(words)
    remedy = "delete it; finished runs stay"
    plain = read_versioned(path, STATE_VERSION, {"words", "share", "spent"}, "the state of a budget", "", remedy)
    state = BudgetState(**{key: plain[key] for key in BudgetState.__dataclass_fields__ if key in plain})
    if state.words != words:
        former = " ".join(state.words) or "no words of its own"
        raise UserError(f"{path}: was begun with {former}; give the same, or choose another with folder=FOLDER")
    return state
