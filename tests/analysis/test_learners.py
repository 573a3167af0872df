"""The order of methods at half of the tokens and at the end."""

from typing import Any

import pandas as pd
import pytest

from ttt.analysis.learning import Orders, Swap, orders


def losses(rows: dict[str, dict[int, tuple[float, float]]]) -> pd.DataFrame:
    """Return the argument of ``orders``; ``rows`` are name -> seed -> losses at half and at the end."""
    found: list[dict[str, Any]] = [
        {"name": name, "seed": seed, "place": place, "loss": loss}
        for name, seeds in rows.items()
        for seed, both in seeds.items()
        for place, loss in zip(("half", "end"), both, strict=True)
    ]
    return pd.DataFrame([*found, {"name": "c", "seed": 0, "place": "", "loss": 0.0}])


def test_equal_orders_have_no_swaps() -> None:
    assert orders(losses({"a": {0: (4.0, 3.0)}, "b": {0: (4.5, 3.1)}})) == Orders(["a", "b"], ["a", "b"], [])


def test_pairs_that_swap_are_named_with_their_distance() -> None:
    found = orders(losses({"a": {0: (4.0, 3.0)}, "b": {0: (4.5, 2.9)}, "c": {0: (3.0, 2.0)}}))
    assert (found.half, found.end) == (["c", "a", "b"], ["c", "b", "a"])
    assert found.swaps == [Swap("b", "a", pytest.approx(0.5))]


def test_means_are_over_shared_seeds() -> None:
    # Seed 1, which only a has, would put a behind b.
    found = orders(losses({"a": {0: (4.0, 3.0), 1: (9.0, 9.0)}, "b": {0: (4.1, 3.1)}}))
    assert found.end == ["a", "b"]


def test_without_the_half_there_is_no_order() -> None:
    rows = losses({"a": {0: (4.0, 3.0)}, "b": {0: (4.5, 3.1)}})
    assert orders(rows[rows["place"] != "half"]) == Orders([], [], [])
