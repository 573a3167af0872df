"""Byte-level BPE by distinct words: the same tokens as from whole texts, several times as fast.

The library's time goes into cutting texts by GPT-2's pattern and into the same words again and again. In ASCII the
pattern is Python's own, so such texts are cut here and the library sees every distinct part once. Other texts are first
cut into stretches, which have characters beyond ASCII or not: the pattern always cuts before a blank or the end of a
line that a visible character follows.
"""

import re
from collections.abc import Iterable
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
"""Distinct parts that are kept, about 60 MB."""


class WordEncoder:
    """Encodes with a tokenizer that cuts texts by GPT-2's pattern.

    Args:
        tokenizer: a byte-level BPE without normalisation and without special tokens in texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        parts = list(_parts(text))
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = list(set(parts).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._known.update((part, encoding.ids) for part, encoding in zip(new, encodings, strict=True))
        return list(chain.from_iterable(map(self._known.__getitem__, parts)))


def _parts(text: str) -> Iterable[str]:
    """Pieces of a text between which the pattern cuts: its own in ASCII, whole stretches elsewhere."""
    if text.isascii():
        return PART.findall(text)
    stretches = BEFORE_A_STRETCH.split(text)
    return chain.from_iterable(PART.findall(stretch) if stretch.isascii() else [stretch] for stretch in stretches)
