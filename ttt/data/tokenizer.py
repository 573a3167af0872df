"""A byte-level BPE trained on the corpus itself: every text can be encoded and comes back exactly."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_DOCUMENT = "<|endoftext|>"
SMALLEST_VOCABULARY = 256 + 1
"""One token for each byte, and the end of a document."""

SAMPLE_CHARS = 8_000_000
"""Characters that training reads. Twice as many save 0.3 % of the tokens of ``pycode``."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most ``vocab_size`` tokens, learned from the first ``SAMPLE_CHARS`` characters of ``texts``.

    The same texts give the same tokenizer, byte for byte. Texts with too few repetitions give fewer tokens.
    ``vocab_size`` is at least ``SMALLEST_VOCABULARY``.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts), trainer)
    return _as_plain_text(tokenizer)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes ``tokenizer.json``."""
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads what ``save_tokenizer`` wrote."""
    return _as_plain_text(Tokenizer.from_str(path.read_text(encoding="utf-8")))


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[np.ndarray]:
    """The tokens of each text with the token ``end`` after them, each int64 [tokens]."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array([*encoding.ids, end]) for encoding in encodings]


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that an ordinary token stands for; only with those of its neighbours need they be whole characters."""
    characters = tokenizer.id_to_token(token)
    assert characters is not None
    return bytes(map(_bytes_of_characters().__getitem__, characters))


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Byte-level BPE writes printable bytes of Latin-1 as themselves, the others in their order from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _sample(texts: Iterable[str]) -> Iterator[str]:
    chars = 0
    for text in texts:
        if chars >= SAMPLE_CHARS:
            return
        yield text[: SAMPLE_CHARS - chars]
        chars += len(text)


def _as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    # A document that happens to contain the text of the end-of-document token must not seem to end there.
    # The file does not keep this setting.
    tokenizer.encode_special_tokens = True
    return tokenizer
