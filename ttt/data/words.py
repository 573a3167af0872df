"""Byte-level BPE by distinct words: the same tokens as from whole texts, several times as fast.

The library spends its time on splitting texts by GPT-2's pattern and on encoding the same words repeatedly. For ASCII,
Python's ``re`` can apply the pattern, so ASCII texts are split here and the library encodes every distinct word once.
Other texts are first divided into ASCII and non-ASCII runs: the pattern always splits before a space or line end that
is followed by a visible character.
"""

import re
from collections.abc import Iterable
from itertools import chain

from tokenizers import Tokenizer

BEFORE_A_RUN = re.compile(r"(?=[ \n][!-~])")
"""Visible ASCII only: Python and the library may disagree about other white space and letters."""

PART = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""GPT-2's pattern in ASCII."""

REMEMBERED = 2**18
"""Distinct words kept, about 60 MB."""


class WordEncoder:
    """Encoder for a tokenizer that splits texts by GPT-2's pattern.

    Args:
        tokenizer: a byte-level BPE without normalisation and without special tokens in texts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        parts = list(_parts(text))
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = list(set(parts).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        self._known.update((part, encoding.ids) for part, encoding in zip(new, encodings, strict=True))
        return list(chain.from_iterable(map(self._known.__getitem__, parts)))


def _parts(text: str) -> Iterable[str]:
    """Return the parts of a text that can be encoded separately: words in ASCII, whole runs elsewhere."""
    if text.isascii():
        return PART.findall(text)
    runs = BEFORE_A_RUN.split(text)
    return chain.from_iterable(PART.findall(run) if run.isascii() else [run] for run in runs)
