"""Where a model's numbers ceased to be finite, if an inner loop is to blame.

Shapes: B batch, H heads, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.scan import Form, piece_lengths
from ttt.layers.observing import read_in_pieces, replaced_forms, ttt_layers


@dataclass(frozen=True)
class Divergence:
    """An inner loop that made numbers that are not finite, or too large for the norm after it, out of finite ones.

    Attributes:
        layer: the TTT layer, from 1.
        head: the first such head, from 0.
        mini_batch: the first mini-batch with such numbers, from 1.
        first: its first token, from 1.
        last: its last token that was read.
    """

    layer: int
    head: int
    mini_batch: int
    first: int
    last: int

    def __str__(self) -> str:
        place = f"layer {self.layer}, head {self.head} diverged in mini-batch {self.mini_batch}"
        tokens = f"token {self.first}" if self.first == self.last else f"tokens {self.first} to {self.last}"
        return f"the inner loop of {place} ({tokens})"


def explained(message: str, model: nn.Module, input_ids: Tensor) -> str:
    """``message`` about numbers that are not finite, and the inner loop that they come from, where it is one."""
    divergence = find_divergence(model, input_ids)
    return message if divergence is None else f"{message}: {divergence}"


@torch.no_grad()
def find_divergence(model: nn.Module, input_ids: Tensor) -> Divergence | None:
    """Reads sequences [B, T] again from their start, to the first token at which an inner loop diverges.

    None where no inner loop is to blame: all of them stay finite, or the numbers were lost before they came to one.
    """
    layers, found = ttt_layers(model), list[Divergence]()
    if not layers:
        return None
    with replaced_forms(layers, lambda layer, number: _Checking(layer.form, number, found)):
        for _ in read_in_pieces(model, input_ids):
            if found:
                return min(found, key=lambda divergence: (divergence.last, divergence.layer))
    return None


class _Checking:
    """A sequence form with the results of ``form``, which adds to ``found`` where they are lost.

    Tokens that come to it not finite are not its doing, but that of what stands before it.
    """

    def __init__(self, form: Form, layer: int, found: list[Divergence]) -> None:
        self.form, self.layer, self.found, self.read = form, layer, found, 0

    def __call__(
        self, loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
    ) -> tuple[Tensor, InnerState]:
        z, after = self.form(loop, norm, state, tokens, tau)
        if not _sound(z, *after.tensors):
            self._locate(loop, norm, state, tokens, tau)
        self.read += tokens.length
        return z, after

    def _locate(self, loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor) -> None:
        """Goes through the mini-batches to the first that makes lost numbers out of finite ones, if there is one."""
        b, end = tau.numel(), self.read
        for piece in tokens.split(piece_lengths(tokens.length, b, state.place, longest=b)):
            given = [x for x in (*piece, *norm, *state.tensors) if x is not None]
            if not all(map(_finite, given)):
                return
            z, state = self.form(loop, norm, state, piece, tau)
            end += piece.length
            lost = [head for head in range(z.shape[1]) if not _sound(*(x[:, head] for x in (z, *state.tensors)))]
            if lost:
                before = (end - 1) // b
                self.found.append(Divergence(self.layer, lost[0], before + 1, before * b + 1, end))
                return


def _sound(z: Tensor, *state: Tensor) -> bool:
    """Whether what follows can go on with it: the norm after an inner loop squares its outputs."""
    return _finite(z.square()) and all(map(_finite, state))


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())
