"""The choice of what fits into a limited time, and the state that later calls go on from."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.launch.budget import BudgetState, Price, choose_parts, read_state

SECONDS = st.floats(0, 1e4)
# A part is a set of runs, of which parts may share some; None: it is too large here.
RUNS = st.lists(st.builds(Price, SECONDS, SECONDS), min_size=4, max_size=4)
PARTS = st.lists(st.none() | st.sets(st.integers(0, 3)), min_size=1, max_size=6)
SHARES = st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.1]), min_size=1, unique=True).map(
    lambda s: sorted(s, reverse=True)
)


@given(RUNS, PARTS, st.integers(1, 6), SHARES, st.floats(-10, 1e4))
def test_the_best_parts_that_fit_are_chosen(
    runs: list[Price], parts: list[set[int] | None], first: int, shares: list[float], left: float
) -> None:
    first = min(first, len(parts))

    def new(index: int, before: Sequence[int]) -> set[int]:
        return (parts[index] or set()).difference(*(parts[other] or () for other in before))

    def price(index: int, before: Sequence[int]) -> Price | None:
        of = [runs[run] for run in new(index, before)]
        return None if parts[index] is None else Price(sum(r.training for r in of), sum(r.fixed for r in of))

    def together(share: float) -> float:
        return sum(runs[run].seconds(share) for run in set().union(*(part or () for part in parts[:first])))

    choice = choose_parts(price, len(parts), first, shares, left)
    larger = [share for share in shares if share > choice.share]
    assert all(together(share) > left - 1e-6 for share in larger), "a larger share would not fit"
    assert choice.share == shares[-1] or together(choice.share) <= left + 1e-6
    used, chosen = 0.0, list[int]()
    for index, part in enumerate(parts):
        seconds = sum(runs[run].seconds(choice.share) for run in new(index, chosen))
        if index in choice.parts:
            chosen.append(index)
            used += seconds
        else:
            assert part is None or used + seconds > left - 1e-6, "in their order, each if it fits into what is left"
    assert math.isclose(choice.seconds, used, abs_tol=1e-6)
    assert used == 0 or used <= left + 1e-6
    made = set().union(*(parts[index] or () for index in choice.parts))
    assert math.isclose(used, sum(runs[run].seconds(choice.share) for run in made), abs_tol=1e-6), "each run once"


def test_the_state_belongs_to_its_words(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    state = read_state(path, ["seed=3"])
    state.share, state.spent, state.benchmarks = 0.5, 12.5, [2]
    state.speeds = {"cpu: x": {"shape": 10.0}}
    state.write(path)
    assert read_state(path, ["seed=3"]) == state
    with pytest.raises(UserError, match=r"was begun with seed=3; give the same, or choose another with folder=FOLDER"):
        read_state(path, [])
    BudgetState([]).write(path)
    with pytest.raises(UserError, match="was begun with no words of its own"):
        read_state(path, ["seed=3"])
    path.write_text("{")
    with pytest.raises(UserError, match="not the state of a budget"):
        read_state(path, [])
