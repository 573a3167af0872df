"""Keys of shipped data sources that have keys of their own.

They are defined here, not in ``ttt/data/``, so that composing a configuration does not import the sources.
"""

from dataclasses import dataclass
from typing import ClassVar

from ttt.config.errors import bad_value
from ttt.config.keys import LARGEST_SEED, key
from ttt.config.schema import DataConfig

SPECIAL = 2
"""Tokens of ``data=mqar`` that are neither key nor value: the end of a sequence, and the blank."""


@dataclass
class MQARConfig(DataConfig):
    """Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927), as in the authors' zoology.

    ``vocab_size`` counts keys, values and the two tokens of ``SPECIAL``.
    """

    trains_tokenizer: ClassVar[bool] = False

    length: int = key(512, "tokens of a sequence; must be the context length", at_least=4)
    pairs: int = key(32, "keys with a value at the start of each sequence", at_least=1)
    queries: int | None = key(
        None, "keys that are asked for, each once, in the rest of the sequence; null: all of them", at_least=1
    )
    keys: int | None = key(
        None, "tokens that are keys, the others are values; null: half of data.vocab_size", at_least=1
    )
    power: float = key(
        0.01,
        "exponent a of the places of queries: slot g of the rest is drawn with a weight of g^(a - 1), so that with a "
        "small one most queries come soon; 1: anywhere alike",
        above=0,
    )
    examples: int = key(100_000, "sequences of all splits together", at_least=1, at_most=10**8)
    seed: int = key(0, "seed of the sequences", at_least=0, at_most=LARGEST_SEED)

    @property
    def key_tokens(self) -> int:
        """Return the number of tokens that are keys."""
        return (self.vocab_size - SPECIAL) // 2 if self.keys is None else self.keys

    @property
    def asked(self) -> int:
        """Return the number of queries in a sequence."""
        return self.pairs if self.queries is None else self.queries

    def check(self) -> None:
        """Check that keys, values, pairs and queries fit into the vocabulary and the sequence.

        Raises:
            UserError: they do not.
        """
        if self.vocab_size - SPECIAL - self.key_tokens < 1 or self.key_tokens < 1:
            name, value = ("data.vocab_size", self.vocab_size) if self.keys is None else ("data.keys", self.keys)
            raise bad_value(name, value, f"must leave a key, a value and {SPECIAL} other tokens in data.vocab_size")
        if self.tokenizer is None and self.pairs > self.key_tokens:
            raise bad_value("data.pairs", self.pairs, f"must be at most the number of keys, {self.key_tokens}")
        if self.asked > self.pairs:
            raise bad_value(
                "data.queries", self.asked, f"must be at most data.pairs={self.pairs}: each key is asked once"
            )
        if self.length % 2:
            raise bad_value("data.length", self.length, "must be even: pairs and queries have two tokens")
        if self.length < (needed := 2 * (self.pairs + self.asked)):
            allowed = f"must be at least {needed}: two tokens for each of {self.pairs} pairs and {self.asked} queries"
            raise bad_value("data.length", self.length, allowed)
        if self.join:
            raise bad_value("data.join", self.join, "must be false: each sequence is read from its start")
        if self.max_tokens is not None:
            raise bad_value("data.max_tokens", self.max_tokens, "is for texts; choose data.examples")

    def check_context(self, ctx: int) -> None:
        """Check that a context holds one sequence.

        Raises:
            UserError: it is longer or shorter.
        """
        if ctx != self.length:
            raise bad_value("data.length", self.length, f"must be the context length, ctx.length={ctx}")


SOURCES: dict[str, type[DataConfig]] = {"mqar": MQARConfig}
"""Source -> its schema; the others have the keys of ``DataConfig``."""

WITH_ANSWERS = ("mqar",)
"""Sources of questions with answers: only the answers are trained and judged."""
