"""Files of ``sweeps/budgets/``: what is wrong in one is named in a line."""

from typing import Any

import pytest

from ttt.config.budget import SHORTEST_PROBED, read_budget, seconds_of
from ttt.config.errors import UserError
from ttt.evaluate.context_gain import NEAR

GOOD: dict[str, Any] = {
    "minutes": 2,
    "shares": [0.5, 1],
    "first": [{"sweep": "ablation", "with": "ablation=row7,row8 'data.path=a b'", "longest": 512}],
    "then": [{"bench": "latency", "minutes": 1}],
}


def test_a_budget_has_its_parts_in_order() -> None:
    budget = read_budget("mine", GOOD)
    assert (budget.seconds, budget.shares) == (120, (1.0, 0.5))
    (first,), (then,) = budget.first, budget.then
    assert first.words == ("ablation=row7,row8", "data.path=a b"), "as a shell reads them"
    assert (then.what, then.minutes, then.sweep) == ("latency", 1.0, None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"frist": []}, "frist: no such key; choose one of minutes, shares, first, then"),
        ({"minutes": 0}, "minutes=0: must be a number above 0"),
        ({"shares": [2]}, "shares=[2]: must be a list of numbers above 0 and at most 1"),
        ({"first": []}, "first is empty"),
        ({"first": [{"swep": "a"}]}, "first[0]: swep: no such key"),
        ({"first": [{"what": "a"}]}, "first[0]: must have one of sweep and bench"),
        ({"then": [{"bench": "latency"}]}, "then[0]: minutes=0: must be the estimated minutes"),
        ({"then": [{"bench": "latency", "minutes": 1, "longest": 512}]}, "then[0]: longest=512: must be"),
        (
            {"then": [{"sweep": "ablation", "longest": 700}]},
            "then[0]: longest=700: must be a power of two, at least 512",
        ),
        ({"then": "ablation"}, "then=ablation: must be a list of parts"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        read_budget("mine", GOOD | change)
    assert str(error.value).startswith("budget=mine: ")
    assert line in str(error.value)


def test_the_shortest_probe_is_that_of_the_evaluation() -> None:
    assert SHORTEST_PROBED == NEAR


def test_times() -> None:
    assert [seconds_of("time", text) for text in ("90s", "55m", "1.5h")] == [90, 3300, 5400]
    for text in ("90", "-1m", "0s", "1d", ""):
        with pytest.raises(UserError, match="must be a time such as 90s"):
            seconds_of("time", text)
