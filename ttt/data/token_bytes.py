"""The bytes of a token of a ``tokenizer.json``."""

import json
import re
from functools import cache
from typing import Any

from tokenizers import Tokenizer

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BLANK = "▁"
"""Sentencepiece's character for a space."""


class TokenBytes:
    """The bytes of each token; one character may be split over several tokens.

    An added token is its own text, even where the model's tokens are written in the characters of byte-level BPE.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        settings = json.loads(tokenizer.to_str())
        parts = {name: json.dumps(settings[name], ensure_ascii=False) for name in PARTS}
        self._tokenizer = tokenizer
        self._byte_level = '"ByteLevel"' in parts["decoder"] or '"ByteLevel"' in parts["pre_tokenizer"]
        self._byte_fallback = '"ByteFallback"' in parts["decoder"] or bool(settings["model"].get("byte_fallback"))
        self._blank = any(BLANK in part for part in parts.values())
        self._added = _only_added(settings)

    def __call__(self, token: int) -> bytes:
        """Return the bytes of a token; none for an id without a token."""
        if token in self._added:
            return self._added[token].encode()
        text = self._tokenizer.id_to_token(token) or ""
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(map(table.__getitem__, text)) if table.keys() >= set(text) else text.encode()
        return piece_bytes(text, self._byte_fallback, self._blank)


PARTS = ("normalizer", "pre_tokenizer", "decoder")


def piece_bytes(text: str, byte_fallback: bool = True, blank: bool = True) -> bytes:
    """Return the bytes of a piece of sentencepiece: ``<0x0A>`` is a byte, and ``BLANK`` a space."""
    byte = BYTE.fullmatch(text) if byte_fallback else None
    if byte:
        return bytes.fromhex(byte[1])
    return (text.replace(BLANK, " ") if blank else text).encode()


def _only_added(settings: dict[str, Any]) -> dict[int, str]:
    """Return id -> text of the added tokens that the model cannot produce."""
    vocab = settings["model"]["vocab"]
    known = set(vocab) if isinstance(vocab, dict) else {text for text, _ in vocab}
    return {token["id"]: token["content"] for token in settings["added_tokens"] if token["content"] not in known}


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Return character -> byte: byte-level BPE keeps printable Latin-1 and maps other bytes to U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}
