"""Answers: the only tokens that are trained and judged, in data that asks questions, such as ``data=mqar``.

Shapes: B windows, T context length, S = T + 1 tokens of a window.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """The tokens of a sequence that answer a question; each sequence is one document, and one window.

    Attributes:
        first: the smallest id of an answer.
        end: the largest id of an answer + 1.
        after: tokens at the start of a sequence that answer nothing.
        length: tokens of a sequence without its end, which must be the context length.
        hidden: the id that the model reads in place of an answer: with the answers so far, the last one would follow
            from those that are left.
    """

    first: int
    end: int
    after: int
    length: int
    hidden: int

    @classmethod
    def of_manifest(cls, entry: dict[str, Any] | None) -> "Answers | None":
        """Return the answers that the manifest of a corpus describes; None: every token is judged.

        Raises:
            TypeError: the entry is not one of ``dataclasses.asdict``.
        """
        return None if entry is None else cls(**entry)

    def marked(self, ids_BS: Tensor) -> Tensor:
        """Return whether each predicted token, 1 to T of its window, is an answer: bool [B, T]."""
        targets_BT = ids_BS[:, 1:]
        marked_BT = (targets_BT >= self.first) & (targets_BT < self.end)
        marked_BT[:, : max(0, self.after - 1)] = False
        return marked_BT

    def inputs(self, ids_BS: Tensor) -> Tensor:
        """Return the tokens that the model reads, int64 [B, T]: all but the last of each window, answers hidden."""
        inputs_BT = ids_BS[:, :-1].clone()
        inputs_BT[:, 1:][self.marked(ids_BS)[:, :-1]] = self.hidden
        return inputs_BT
