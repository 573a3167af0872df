"""The contract of a sequence layer, and its state between two chunks of a sequence."""

from typing import Protocol

from torch import Tensor

State = dict[str, Tensor]
"""Flat dictionary of tensors, named as in a ``state_dict``: save it with ``torch.save`` or safetensors, and move it
between devices tensor by tensor. Before the first token it is empty."""

READ_CHUNK = 512
"""Tokens that a model reads at a time, so that a long sequence takes no more memory than a short one."""


class SequenceLayer(Protocol):
    """Contract of a sequence layer, and of a backbone's block: an ``nn.Module`` that is called as below.

    Shapes: B batch, T tokens, C model width. The map is causal: output t depends on the tokens up to t. A sequence may
    be cut anywhere: called on each chunk with the state after the previous one, it gives the outputs for the whole.

    Optional hooks, found by name on every module of a model:

    - ``flops(tokens: int) -> int``: FLOPs of the forward pass over one sequence of ``tokens`` tokens. Without it, the
      FLOPs of linear maps and causal convolutions inside are summed (``ttt.layers.flops``).
    - ``elementwise_flops(tokens: int) -> int``: the part of ``flops`` that torch does not count; for the tests.
    - ``compiled_kernels: tuple[str, ...]``: the options of the group ``kernel`` that this layer compiles on first use.
    - ``conv_kernel: int``: width in tokens of the Mamba backbone's convolution before a layer. Without it, 4.
    - ``norm_eps: float``: epsilon of the RMSNorms of the model around a layer. Without it, 1e-6.
    - ``no_weight_decay: tuple[str, ...]``: the module's own parameters without weight decay. Vectors have none.
    - ``token_steps(steps: TokenSteps, x_C: Tensor, state: State) -> Tensor``: add the steps of one token of one
      sequence (``ttt.kernels.cpu.decode``) to those before it, and return the tensor [C] of the result. The tensors of
      the state are of ``ttt.layers.inner_state.in_place``, and are overwritten. Without it, decoding calls the module.
    - ``set_warmup(progress: float) -> None``: called before every training step with the progress of the learning
      rate's warm-up, 0 at the start and at least 1 after it.
    """

    def __call__(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map x [B, T, C] to y [B, T, C].

        Args:
            x_BTC: the tokens of this chunk; of any floating dtype.
            state: the state before this chunk; None or empty at the start of a sequence.

        Returns:
            y [B, T, C] and the state after the last token.
        """
        ...


def part(state: State | None, name: str) -> State:
    """Return the state of the submodule ``name``; empty at the start of a sequence."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}


def named(name: str, state: State) -> State:
    """Return a submodule's state under its name: the inverse of ``part``."""
    return {f"{name}.{key}": value for key, value in state.items()}


def rows_of(state: State, rows_B: Tensor) -> State:
    """Return the state of some sequences of a batch, in the order of their numbers; scalars are common to all."""
    return {
        key: value.index_select(0, rows_B.to(value.device)) if value.ndim else value for key, value in state.items()
    }
