"""A run's ``tokenizer.model`` as a tokenizer of transformers."""

from itertools import groupby
from typing import Any

from transformers.tokenization_utils_sentencepiece import SentencePieceBackend


class TTTSuiteTokenizer(SentencePieceBackend):
    """The pieces of sentencepiece itself, as in the run.

    Tokenizers that transformers makes of the file differ from it in blanks at the start of a text, in texts that the
    file's rules change, and in characters without a piece.
    """

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        # By id, because sentencepiece returns the text of a piece that it does not know.
        names: list[str] = self.sp_model.id_to_piece(self.sp_model.encode(text))
        return names

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return the text of pieces as sentencepiece writes it; special and unknown tokens have their names."""
        unknown = self.sp_model.id_to_piece(self.sp_model.unk_id())
        parts = groupby(tokens, {unknown, *self.all_special_tokens}.__contains__)
        return "".join("".join(names) if special else self.sp_model.decode(list(names)) for special, names in parts)
