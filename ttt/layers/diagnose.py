"""Find the inner loop that made a model's numbers infinite or NaN.

Shapes: B batch, H heads, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.scan import InnerKernel, chunk_lengths
from ttt.layers.observing import patched_kernels, read_in_chunks, ttt_layers


@dataclass(frozen=True)
class Divergence:
    """An inner loop with finite inputs whose results are not finite, or too large for the norm after it.

    Attributes:
        layer: the TTT layer, from 1.
        head: the first head with such results, from 0.
        mini_batch: the first mini-batch with such results, from 1.
        first: the first token of the mini-batch, from 1.
        last: the last token of the mini-batch that was read.
    """

    layer: int
    head: int
    mini_batch: int
    first: int
    last: int

    def __str__(self) -> str:
        location = f"layer {self.layer}, head {self.head} diverged in mini-batch {self.mini_batch}"
        tokens = f"token {self.first}" if self.first == self.last else f"tokens {self.first} to {self.last}"
        return f"the inner loop of {location} ({tokens})"


def with_diagnosis(message: str, model: nn.Module, ids_BT: Tensor) -> str:
    """Return an error ``message`` about non-finite numbers, followed by the inner loop that diverged, if any."""
    divergence = find_divergence(model, ids_BT)
    return message if divergence is None else f"{message}: {divergence}"


@torch.no_grad()
def find_divergence(model: nn.Module, ids_BT: Tensor) -> Divergence | None:
    """Read sequences from their start, up to the first token at which an inner loop diverges.

    Returns:
        None if no inner loop diverges, or if their inputs were not finite already.
    """
    layers, found = ttt_layers(model), list[Divergence]()
    if not layers:
        return None
    with patched_kernels(layers, lambda layer, number: _CheckedKernel(layer.kernel, number, found)):
        for _ in read_in_chunks(model, ids_BT):
            if found:
                return min(found, key=lambda divergence: (divergence.last, divergence.layer))
    return None


class _CheckedKernel:
    """``kernel``, which also appends to ``found`` the first mini-batch that turns finite inputs into others."""

    def __init__(self, kernel: InnerKernel, layer: int, found: list[Divergence]) -> None:
        self.kernel, self.layer, self.found, self.read = kernel, layer, found, 0

    def __call__(self, loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        z, after = self.kernel(loop, state, inputs)
        if not _usable(z, *after.tensors):
            self._locate(loop, state, inputs)
        self.read += inputs.length
        return z, after

    def _locate(self, loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> None:
        b, end = loop.mini_batch_size, self.read
        for chunk in inputs.split(chunk_lengths(inputs.length, b, state.offset, longest=b)):
            arguments = [x for x in (*chunk, *loop.norm, *state.tensors) if x is not None]
            if not all(map(_finite, arguments)):
                return
            z, state = self.kernel(loop, state, chunk)
            end += chunk.length
            bad_heads = [head for head in range(z.shape[1]) if not _usable(*(x[:, head] for x in (z, *state.tensors)))]
            if bad_heads:
                earlier = (end - 1) // b
                self.found.append(Divergence(self.layer, bad_heads[0], earlier + 1, earlier * b + 1, end))
                return


def _usable(z: Tensor, *state: Tensor) -> bool:
    """Return whether the state is finite and the next LayerNorm can square z without overflow."""
    return _finite(z.square()) and all(map(_finite, state))


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())
