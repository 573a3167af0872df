"""Random orders that visit every index once."""

from typing import Protocol

import numpy as np

LISTED = 2**22
"""An order of up to this many numbers is an array; a longer one is computed, so that memory does not grow."""

ROUNDS = 6


class Order(Protocol):
    """A permutation: ``order[position]`` is the index read at ``position``."""

    def __getitem__(self, place: int, /) -> int: ...


def permutation(n: int, seed: int, epoch: int) -> Order:
    """Return an order of 0 to n - 1 that depends only on ``seed`` and ``epoch``."""
    generator = np.random.default_rng((seed, epoch))
    return generator.permutation(n) if n <= LISTED else Feistel(n, generator)


class Feistel:
    """A permutation of 0 to n - 1 that needs no memory.

    A Feistel network permutes the numbers of an even number of bits (Luby and Rackoff, 1988). A number outside the
    range goes through the network again until it is inside, which takes on average less than four rounds (Black and
    Rogaway, 2002).

    Args:
        n: how many numbers.
        generator: gives the keys of the rounds.
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self._n = n
        self._half = (max(n - 1, 1).bit_length() + 1) // 2
        self._mask = 2**self._half - 1
        self._keys = [int(key) for key in generator.integers(2**64, size=ROUNDS, dtype=np.uint64)]

    def __getitem__(self, place: int) -> int:
        place = self._once(place)
        while place >= self._n:
            place = self._once(place)
        return place

    def _once(self, number: int) -> int:
        left, right = number >> self._half, number & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return left << self._half | right


def _mixed(number: int) -> int:
    """Return the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31
