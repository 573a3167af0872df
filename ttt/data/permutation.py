"""Random orders that visit every index once."""

from typing import Protocol

import numpy as np

LISTED = 2**22
"""Largest order that is stored as an array; longer orders are computed, so that memory does not grow."""

ROUNDS = 6


class Order(Protocol):
    """A permutation: ``order[position]`` is the index read at ``position``."""

    def __getitem__(self, position: int, /) -> int: ...


def permutation(n: int, seed: int, epoch: int) -> Order:
    """Return an order of 0 to n - 1 that depends only on ``seed`` and ``epoch``."""
    generator = np.random.default_rng((seed, epoch))
    return generator.permutation(n) if n <= LISTED else Feistel(n, generator)


class Feistel:
    """A permutation of 0 to n - 1 that needs no memory.

    A Feistel network permutes the numbers of an even number of bits (Luby and Rackoff, 1988). It is applied again while
    the result is out of range, on average less than four times (Black and Rogaway, 2002).

    Args:
        n: size of the permutation.
        generator: source of the keys of the rounds.
    """

    def __init__(self, n: int, generator: np.random.Generator) -> None:
        self._n = n
        self._half = (max(n - 1, 1).bit_length() + 1) // 2
        self._mask = 2**self._half - 1
        self._keys = [int(key) for key in generator.integers(2**64, size=ROUNDS, dtype=np.uint64)]

    def __getitem__(self, position: int) -> int:
        index = self._once(position)
        while index >= self._n:
            index = self._once(index)
        return index

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
