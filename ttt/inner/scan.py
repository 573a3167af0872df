"""Run a kernel over a sequence: the state passes from chunk to chunk and from mini-batch to mini-batch.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.recompute import recompute
from ttt.inner.rotation import rotated

InnerKernel = Callable[[InnerLoop, InnerState, InnerInputs], tuple[Tensor, InnerState]]
"""An implementation of the inner loop: ``(loop, state, inputs)`` -> z [B, H, T, D] and the state after the last token.

A mini-batch kernel, such as ``primal_mini_batch`` and ``dual_mini_batch``, takes tokens of one mini-batch; a sequence
kernel any number of tokens.
"""

MAX_CHUNK = 64
"""Tokens per chunk. The dual form's cost grows with its square, so longer mini-batches are split."""


def scan(
    kernel: InnerKernel, loop: InnerLoop, state: InnerState, inputs: InnerInputs, recompute_group: int = 0
) -> tuple[Tensor, InnerState]:
    """Run a mini-batch kernel over any number of tokens, in time linear in T.

    Args:
        kernel: computes a chunk of a mini-batch.
        loop: model, loss and update rule.
        state: the state before these tokens; ``InnerSpec.start`` returns the initial one.
        inputs: T tokens; the first may be at any offset of a mini-batch.
        recompute_group: number of chunks whose inner states are recomputed together in the backward pass (checkpointing
            through time); 0 keeps all states.

    Returns:
        z [B, H, T, D] and the state after the last token.
    """
    loop, inputs = rotated(loop, state.offset, inputs)
    lengths = chunk_lengths(inputs.length, loop.mini_batch_size, state.offset)
    if not recompute_group or not torch.is_grad_enabled():
        return _in_chunks(kernel, lengths, loop, state, inputs)
    groups = [lengths[i : i + recompute_group] for i in range(0, len(lengths), recompute_group)]
    outputs = []
    for group, chunk in zip(groups, inputs.split([sum(group) for group in groups]), strict=True):
        z, state = _recomputed(kernel, group, loop, state, chunk)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def chunk_lengths(tokens: int, mini_batch_size: int, offset: int = 0, longest: int = MAX_CHUNK) -> list[int]:
    """Split a number of tokens into chunks that stay within a mini-batch and have at most ``longest`` tokens."""
    lengths = []
    while tokens:
        length = min(tokens, mini_batch_size - offset, longest)
        lengths.append(length)
        tokens, offset = tokens - length, (offset + length) % mini_batch_size
    return lengths


def _in_chunks(
    kernel: InnerKernel, lengths: list[int], loop: InnerLoop, state: InnerState, inputs: InnerInputs
) -> tuple[Tensor, InnerState]:
    if len(lengths) == 1:
        return kernel(loop, state, inputs)
    outputs = []
    for chunk in inputs.split(lengths):
        z, state = kernel(loop, state, chunk)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def _recomputed(
    kernel: InnerKernel, lengths: list[int], loop: InnerLoop, state: InnerState, inputs: InnerInputs
) -> tuple[Tensor, InnerState]:
    """Run ``_in_chunks``, keeping only its arguments for the backward pass."""
    given = [x for x in inputs if x is not None]
    count, offset = len(given), state.offset

    def function(tau: Tensor, scale: Tensor, shift: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        own_loop = replace(loop, tau=tau, norm=LayerNormParams(scale, shift))
        own_state = state.with_tensors(tensors[count:], offset)
        z, last = _in_chunks(kernel, lengths, own_loop, own_state, InnerInputs(*tensors[:count]))
        return z, *last.tensors

    z, *tensors = recompute(function, loop.tau, *loop.norm, *given, *state.tensors)
    return z, state.with_tensors(tuple(tensors), (offset + sum(lengths)) % loop.mini_batch_size)
