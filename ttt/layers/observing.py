"""Record the inner loops of a model by patching their kernels temporarily.

Shapes: B batch, H heads, T tokens of one call, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.observe import Observation as Observation  # for packages that must not import ``ttt.inner``
from ttt.inner.observe import observe
from ttt.inner.scan import InnerKernel
from ttt.layers.state import READ_CHUNK, State
from ttt.layers.ttt import TTT


def ttt_layers(model: nn.Module) -> list[TTT]:
    """Return the TTT layers of a model, from the first to the last; messages number them from 1."""
    return [module for module in model.modules() if isinstance(module, TTT)]


@contextmanager
def patched_kernels(layers: Sequence[TTT], patch: Callable[[TTT, int], InnerKernel]) -> Iterator[None]:
    """Use ``patch(layer, number)`` as the kernel of each layer within the context; numbers start at 1."""
    kernels = [layer.kernel for layer in layers]
    try:
        for number, layer in enumerate(layers, 1):
            layer.kernel = patch(layer, number)
        yield
    finally:
        for layer, kernel in zip(layers, kernels, strict=True):
            layer.kernel = kernel


@contextmanager
def record_inner_loops(model: nn.Module) -> Iterator[list[Observation]]:
    """Append one observation [B, H, T] per TTT layer to the list at each call of ``model`` within the context.

    The calls return the results of the primal form, without gradients. Nothing clears the list between calls.
    """
    observations: list[Observation] = []

    def recorder(layer: TTT, _: int) -> InnerKernel:
        def kernel(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
            z, state, observation = observe(loop, state, inputs, layer.initial_weights(loop.tau.dtype))
            observations.append(observation)
            return z, state

        return kernel

    with patched_kernels(ttt_layers(model), recorder):
        yield observations


def read_in_chunks(model: nn.Module, ids_BT: Tensor) -> Iterator[Tensor]:
    """Yield the logits [B, READ_CHUNK, V] of a language model, chunk by chunk."""
    state: State = {}
    for chunk_BT in ids_BT.split(READ_CHUNK, dim=1):
        logits, state = model(chunk_BT, state=state)
        yield logits
