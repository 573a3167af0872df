"""The choice of what fits into a limited time, and the state that later calls go on from."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.launch.budget import BudgetState, Price, choose_parts, read_state

SECONDS = st.floats(0, 1e4)
PRICES = st.lists(st.one_of(st.none(), st.builds(Price, SECONDS, SECONDS)), min_size=1, max_size=6)
SHARES = st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.1]), min_size=1, unique=True).map(
    lambda s: sorted(s, reverse=True)
)


@given(PRICES, st.integers(1, 6), SHARES, st.floats(-10, 1e4))
def test_the_best_parts_that_fit_are_chosen(
    prices: list[Price | None], first: int, shares: list[float], left: float
) -> None:
    choice = choose_parts(prices, first, shares, left)

    def together(share: float) -> float:
        return sum(price.seconds(share) for price in prices[:first] if price is not None)

    larger = [share for share in shares if share > choice.share]
    assert all(together(share) > left for share in larger), "a larger share would not fit"
    assert choice.share == shares[-1] or together(choice.share) <= left
    used = 0.0
    for index, price in enumerate(prices):
        fits = price is not None and used + price.seconds(choice.share) <= left
        assert (index in choice.parts) == fits, "in their order, each if it fits into what is left"
        used += price.seconds(choice.share) if fits and price is not None else 0.0
    assert math.isclose(choice.seconds, used)
    assert used == 0 or used <= left


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
