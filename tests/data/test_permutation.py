"""Orders of an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt.data.permutation import LISTED, Feistel, permutation


@given(n=st.integers(1, 600), seed=st.integers(0, 2**32))
def test_everything_comes_once(n: int, seed: int) -> None:
    order = Feistel(n, np.random.default_rng(seed))
    assert sorted(order[position] for position in range(n)) == list(range(n))


def test_an_order_beyond_memory_looks_random_and_follows_seed_and_epoch() -> None:
    n = 10**12
    orders = [permutation(n, *which) for which in ((0, 0), (0, 0), (0, 1), (1, 0))]
    same, again, epoch, seed = ([order[position] for position in range(2000)] for order in orders)
    assert same == again
    assert len({*same, *epoch, *seed}) == 6000
    assert np.mean(same) == pytest.approx(n / 2, rel=0.05)
    assert abs(np.corrcoef(same[1:], same[:-1])[0, 1]) < 0.1


def test_a_short_order_is_a_list() -> None:
    np.testing.assert_array_equal(permutation(10, 3, 4), np.random.default_rng((3, 4)).permutation(10))
    assert isinstance(permutation(LISTED + 1, 0, 0), Feistel)
