"""A byte-level BPE trained on the corpus itself: it encodes any text without loss."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_DOCUMENT = "<|endoftext|>"

SAMPLE_CHARS = 8_000_000
"""Characters used for training. With twice as many, ``pycode`` has 0.3 % fewer tokens."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of at most ``vocab_size`` tokens on the first ``SAMPLE_CHARS`` characters of ``texts``.

    The same texts give the same tokenizer, byte for byte. Texts with few repetitions give fewer tokens. ``vocab_size``
    is at least ``ttt.config.plan.SMALLEST_VOCABULARY``.
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
    """Write ``tokenizer.json``."""
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a file of ``save_tokenizer``."""
    return _as_plain_text(Tokenizer.from_str(path.read_text(encoding="utf-8")))


def plain_json(path: Path) -> bytes:
    """Return the content of a ``tokenizer.json`` with which any program encodes a text as ``load_tokenizer`` does.

    Without settings of its last use, and without tokens that it would put around a text.
    """
    tokenizer = load_tokenizer(path)
    settings = json.loads(tokenizer.to_str())
    if tokenizer.num_special_tokens_to_add(is_pair=False):
        settings["post_processor"] = None
    return json.dumps(settings, ensure_ascii=False).encode()


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str], end: int) -> list[np.ndarray]:
    """Return the tokens of each text followed by the token ``end``, each int64 [tokens]."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array([*encoding.ids, end]) for encoding in encodings]


def _sample(texts: Iterable[str]) -> Iterator[str]:
    chars = 0
    for text in texts:
        if chars >= SAMPLE_CHARS:
            return
        yield text[: SAMPLE_CHARS - chars]
        chars += len(text)


def _as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    # Encode the text of the end-of-document token in a document as ordinary text.
    # tokenizer.json does not store this setting.
    tokenizer.encode_special_tokens = True
    # A file may store these settings of its last use. They would add tokens, cut documents, or encode at random.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    return tokenizer
