"""The choice of the parts of a budget that fit into its time, and the state that later calls go on from."""

import json
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Choice:
    """The parts that fit.

    Attributes:
        share: share of the tokens of each run.
        parts: indices of the chosen parts, in their order.
        seconds: of all of them.
    """

    share: float
    parts: tuple[int, ...]
    seconds: float


def choose_parts(prices: Sequence[Price | None], first: int, shares: Sequence[float], left: float) -> Choice:
    """Choose a share of the tokens, and the parts to do, in their order.

    The share is the largest at which the first parts fit together, or the smallest if they never do. At that share, a
    part is chosen if it fits into the time that the ones before it leave.

    Args:
        prices: of all parts in order of worth; None: a part that cannot be done or measured here.
        first: how many of them belong together.
        shares: shares to choose from, the largest first.
        left: seconds that are left.
    """
    together = [price for price in prices[:first] if price is not None]
    share = next((one for one in shares if sum(price.seconds(one) for price in together) <= left), shares[-1])
    chosen, used = [], 0.0
    for index, price in enumerate(prices):
        if price is not None and used + price.seconds(share) <= left:
            chosen.append(index)
            used += price.seconds(share)
    return Choice(share, tuple(chosen), used)


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
