"""A comparison of an exported tokenizer, as transformers reads it, with the run's on difficult texts."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoTokenizer

from ttt.config.errors import UserError
from ttt.data.vocabulary import Vocabulary, decode, open_vocabulary

DIFFICULT = (
    "",
    " ",
    "\n",
    "\u3000",
    "a",
    " a",
    "  a",
    "a ",
    "\ta\r\n\n  b  c\t ",
    "def main(self):\n    return [x ** 2 for x in range(10)]  # 3.14e-10, 1234567890",
    "it's we'll I'M don't",
    "<s>a</s> <|endoftext|><unk><pad> <0x0A> [INST]",
    "▁a ▁▁ Ġb Ċ ##c",
    "naïve café cafe\u0301 ﬁ ½ ℌ Ａ ａ İ ß ſ",
    "Привет, Ελλάδα! שלום مرحبا 你好，世界。こんにちは 안녕 ᄒ\u1161\u11ab नमस्ते ไทย",
    "😀 👩‍👩‍👧 🇩🇪 \U0001f3fd \U00010400 \U0010fffd",
    "\x00\x01\x7f\x85\xa0\xad\u200b\u200d\u2028\ufeff\ufffd",
    "a" * 300,
    " " * 40 + "x",
)
"""Texts in which tokenizers of other rules differ: blanks, names of special tokens, other scripts and forms."""

COMBINATIONS, PIECES = 200, 8
"""Texts of random pieces of the vocabulary, and pieces of each."""


def check_same_tokens(tokenizer: Path, files: dict[str, bytes]) -> None:
    """Compare the tokens and the decoded texts of a run with those of transformers.

    Args:
        tokenizer: the tokenizer's file in the run's folder.
        files: the tokenizer files of the export, name -> content.

    Raises:
        UserError: a text has other tokens, or only the run decodes its tokens to the text.
    """
    vocabulary = open_vocabulary(tokenizer.parent)
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        read = AutoTokenizer.from_pretrained(folder)
    for text in (*DIFFICULT, *_combinations(vocabulary)):
        ids = vocabulary.encode([text])[0][:-1]
        if read(text, verbose=False).input_ids != ids.tolist():
            raise _differs(tokenizer, text, "other tokens for")
        # Tokenizers of sentencepiece's kind put a blank before a text, which transformers' decoding removes.
        kept = decode(vocabulary, ids) in (text, f" {text}")
        if kept and str(read.decode(ids)).removeprefix(" ") != text.removeprefix(" "):
            raise _differs(tokenizer, text, "another text for the tokens of")


def _combinations(vocabulary: Vocabulary) -> list[str]:
    chosen = random.Random(0)
    pieces = [vocabulary.bytes_of(token) for token in range(vocabulary.size)]
    texts = (b"".join(chosen.choices(pieces, k=PIECES)) for _ in range(COMBINATIONS))
    return [text.decode("utf-8", errors="replace") for text in texts]


def _differs(tokenizer: Path, text: str, what: str) -> UserError:
    where = f"in transformers it gives {what} {text[:40]!r} than in the run"
    return UserError(f"{tokenizer}: {where}; export the run with out=FOLDER instead of hf=FOLDER")
