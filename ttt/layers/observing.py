"""Looking inside the inner loops of a model: what runs in the place of their forms, for as long as one looks.

Shapes: B batch, H heads, T tokens of one call, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.observe import Observation as Observation  # for packages that do not know ``ttt.inner``
from ttt.inner.observe import observe
from ttt.inner.scan import Form
from ttt.layers.state import State
from ttt.layers.ttt import TTT

PIECE = 512
"""Tokens that a model reads at once, so that a long sequence takes no more memory than a short one."""


def ttt_layers(model: nn.Module) -> list[TTT]:
    """The TTT layers of a model, from the first to the last; where they are numbered, it is from 1."""
    return [module for module in model.modules() if isinstance(module, TTT)]


@contextmanager
def replaced_forms(layers: Sequence[TTT], replacement: Callable[[TTT, int], Form]) -> Iterator[None]:
    """Inside it each layer computes with ``replacement(layer, number)``, number 1 being the first; then as before."""
    forms = [layer.form for layer in layers]
    try:
        for number, layer in enumerate(layers, 1):
            layer.form = replacement(layer, number)
        yield
    finally:
        for layer, form in zip(layers, forms, strict=True):
            layer.form = form


@contextmanager
def observing(model: nn.Module) -> Iterator[list[Observation]]:
    """Inside it every call of ``model`` leaves in the list what each of its TTT layers did, [B, H, T], in their order.

    The calls' results are those of the primal form; they have no gradients. Take the observations out of the list, or
    they pile up.
    """
    seen: list[Observation] = []

    def seeing(layer: TTT, _: int) -> Form:
        def form(
            loop: InnerLoop, norm: LayerNormParams, state: InnerState, tokens: Tokens, tau: Tensor
        ) -> tuple[Tensor, InnerState]:
            z, state, observation = observe(loop, norm, state, tokens, tau, layer.initial_weights(tau.dtype))
            seen.append(observation)
            return z, state

        return form

    with replaced_forms(ttt_layers(model), seeing):
        yield seen


def read_in_pieces(model: nn.Module, ids_BT: Tensor) -> Iterator[Tensor]:
    """The logits [B, PIECE, V] of a language model, piece after piece."""
    state: State = {}
    for piece in ids_BT.split(PIECE, dim=1):
        logits, state = model(piece, state=state)
        yield logits
