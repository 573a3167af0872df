"""The tokenizer of a run, between text and tensors of token ids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ttt.config.errors import UserError, first_line
from ttt.data.vocabulary import decode, open_vocabulary, tokenizer_file


class TextTokenizer:
    """Encodes text for a model and decodes its tokens. T is the number of tokens.

    Attributes:
        size: the largest token id + 1, the model's vocabulary.
        end: id of the token that ends a document.
        device: device of the ids that ``encode`` returns.

    Raises:
        UserError: the folder has no tokenizer file, or a damaged one.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        try:
            self._vocabulary = open_vocabulary(folder)
        except (OSError, ValueError) as error:
            path = tokenizer_file(folder)
            raise UserError(f"{path}: cannot be used as a tokenizer ({first_line(error)}); restore it") from error
        self.size, self.end, self.device = self._vocabulary.size, self._vocabulary.end, device

    def encode(self, text: str) -> Tensor:
        """Return the ids of a text, int64 [1, T], as ``model`` takes them.

        Empty text gives the token ``end`` alone, after which a model starts a document.
        """
        ids = self._vocabulary.encode([text])[0][:-1].tolist() or [self.end]
        return torch.tensor([ids], device=self.device)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Return the text of ids [T] or [1, T]; incomplete characters become U+FFFD."""
        return decode(self._vocabulary, np.asarray(torch.as_tensor(ids).cpu()).reshape(-1))
