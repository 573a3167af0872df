"""The bytes of text that the judged tokens of an evaluation stand for."""

import numpy as np

from ttt.data.shards import TokenSequence
from ttt.data.vocabulary import Vocabulary


def count_text_bytes(tokens: TokenSequence, starts: np.ndarray, ctx: int, vocabulary: Vocabulary) -> int:
    """Return the bytes of the tokens that windows predict. The end-of-document token is no text and has none.

    Args:
        tokens: the tokens of a split.
        starts: int64 [windows], the place of each window.
        ctx: tokens that each window predicts; the first token is only read.
        vocabulary: of the tokens.
    """
    counts = np.zeros(vocabulary.size, np.int64)
    for start in starts.tolist():
        counts += np.bincount(tokens[start + 1 : start + ctx + 1], minlength=vocabulary.size)
    counts[vocabulary.end] = 0
    return sum(int(counts[token]) * len(vocabulary.bytes_of(token)) for token in np.flatnonzero(counts).tolist())
