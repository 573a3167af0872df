"""Byte-level BPE by distinct words: the same tokens as from whole texts, several times as fast.

The library's time goes into cutting texts by GPT-2's pattern and into a fixed cost for each string. Both are saved
twice: the pattern always cuts before a blank or the end of a line that a visible character follows, so every distinct
stretch between such places is treated once; and in a stretch of ASCII the pattern is Python's own, so the library
sees every distinct part once.
"""

import re
from itertools import chain

from tokenizers import Tokenizer

BEFORE_A_STRETCH = re.compile(r"(?=[ \n][!-~])")
"""Visible ASCII only: what is white space or a letter beyond it, Python and the library may see differently."""

PART = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""GPT-2's pattern in ASCII."""

REMEMBERED = 2**18
"""Distinct stretches, and distinct parts, that are kept: about 100 MB."""

Tokens = list[int]


class WordEncoder:
    """Encodes with a tokenizer that cuts texts by GPT-2's pattern.

    Args:
        tokenizer: a byte-level BPE without normalisation and without special tokens in texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stretches: dict[str, Tokens] = {}
        self._parts: dict[str, Tokens] = {}

    def encode(self, text: str) -> Tokens:
        """The tokens of a text."""
        stretches = BEFORE_A_STRETCH.split(text)
        if len(self._stretches) > REMEMBERED:
            self._stretches.clear()
        new = list(set(stretches).difference(self._stretches))
        parts = [PART.findall(stretch) if stretch.isascii() else [stretch] for stretch in new]
        self._learn(set(chain.from_iterable(parts)))
        self._stretches.update(zip(new, (_joined(self._parts, part) for part in parts), strict=True))
        return _joined(self._stretches, stretches)

    def _learn(self, parts: set[str]) -> None:
        if len(self._parts) > REMEMBERED:
            self._parts.clear()
        new = list(parts.difference(self._parts))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._parts.update((part, encoding.ids) for part, encoding in zip(new, encodings, strict=True))


def _joined(known: dict[str, Tokens], pieces: list[str]) -> Tokens:
    return list(chain.from_iterable(map(known.__getitem__, pieces)))
