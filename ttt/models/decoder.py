"""Decoders: one token after another, by the model, by compiled steps on a CPU, or on a GPU as a CUDA graph.

Without a graph Python launches some hundred kernels for each token of a model of the paper's sizes, which takes longer
than the GPU's work at small batches. A graph repeats the launches of one token. It cannot depend on numbers that the
host knows, so the state says on the device how far the sequence is, and is overwritten.

Shapes: B batch, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor

from ttt.config.errors import bad_value
from ttt.kernels.dispatch import is_compiled
from ttt.layers.state import State
from ttt.models.compiled_decoder import CompiledDecoder
from ttt.models.language_model import LanguageModel


class Decoder(Protocol):
    """Reads one token of each sequence at a time."""

    def __call__(self, ids_B1: Tensor) -> Tensor:
        """Return the logits [B, V] after one more token of each sequence; the next call may overwrite them."""
        ...

    def restart(self, state: State) -> None:
        """Go on after the tokens of ``state``, which stays as it is."""
        ...


def decoder_after(model: LanguageModel, state: State, batch: int) -> Decoder:
    """Return the fastest decoder that goes on after ``state``, of ``batch`` sequences, on this device.

    One sequence on a CPU: compiled steps, where ``kernel.name`` allows them and a block has them. Else the model.

    Raises:
        UserError: ``kernel=cpu`` cannot run here.
    """
    if batch == 1 and _are_exact(model, state) and is_compiled(model.kernel, model.embedding.weight.device):
        compiled = CompiledDecoder(model, state)
        if compiled.compiled:
            return compiled
    return PlainDecoder(model, state)


def _are_exact(model: LanguageModel, state: State) -> bool:
    """Return whether all numbers are float32, or all float64; the compiled steps take no others."""
    tensors = (*model.parameters(), *state.values())
    dtypes = {x.dtype for x in tensors if x.is_floating_point()}
    return dtypes in ({torch.float32}, {torch.float64}) and not torch.is_autocast_enabled("cpu")


class PlainDecoder:
    """Reads a token by a call of the model, with a new state for each token, on any device."""

    def __init__(self, model: LanguageModel, state: State) -> None:
        self.model, self.state = model, state

    def restart(self, state: State) -> None:
        """See ``Decoder``."""
        self.state = state

    @torch.no_grad()
    def __call__(self, ids_B1: Tensor) -> Tensor:
        """Return the logits [B, V] after one more token of each sequence."""
        logits_B1V, self.state = self.model(ids_B1, self.state)
        return logits_B1V[:, -1]


class FixedDecoder:
    """Reads one token of each sequence at a time: ``logits_BV = decoder(ids_B1)``.

    On a GPU the first call compiles and launches the kernels one by one, the second captures a CUDA graph, and all
    later ones replay it. No graph has been captured yet, for want of a GPU; on a CPU no call uses one.

    Attributes:
        state: the state after the tokens so far.
    """

    def __init__(self, model: LanguageModel, state: State) -> None:
        """Take over ``state``, of ``ttt.layers.inner_state.in_place``; the sequences share no memory of it."""
        device = model.embedding.weight.device
        self.model, self.state = model, {name: x.to(device) for name, x in state.items()}
        self._ids: Tensor | None = None
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def __call__(self, ids_B1: Tensor) -> Tensor:
        """Return the logits [B, V] after one more token of each sequence, in a tensor that the next call overwrites.

        Raises:
            UserError: the Triton kernels cannot compute this model here, or its state grows, as attention's does.
        """
        if self._ids is None:
            self._ids = ids_B1.clone()
            self._step()
        else:
            self._ids.copy_(ids_B1)
            (self._replay if ids_B1.is_cuda else self._step)()
        assert self._logits is not None
        return self._logits

    def _step(self) -> None:
        logits_B1V, after = self.model(self._ids, self.state)
        for name, before in self.state.items():
            if after[name].shape != before.shape:
                raise bad_value("model", "attention", "its state grows with every token; decode it without a graph")
            if after[name] is not before:
                before.copy_(after[name])
        self._logits = logits_B1V[:, -1].clone() if self._logits is None else self._logits.copy_(logits_B1V[:, -1])

    def _replay(self) -> None:
        if self._graph is None:
            # The capture runs nothing; the replay below computes this token.
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
        self._graph.replay()
