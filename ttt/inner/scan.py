"""From one mini-batch to a sequence: the state goes from mini-batch to mini-batch.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ttt.inner.checkpoint import recompute
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerLoop, InnerState, Tokens

Form = Callable[[InnerLoop, LayerNormParams, InnerState, Tokens, Tensor], tuple[Tensor, InnerState]]
"""``(loop, norm, state, tokens, tau)`` -> z [B, H, T, D] and the state after the last token.

A mini-batch form, such as ``primal_mini_batch`` and ``dual_mini_batch``, takes tokens of one mini-batch; a sequence
form any number.
"""

LONGEST_PIECE = 64
"""The dual form's cost grows with the square of a piece, so a longer mini-batch is read in several."""


def scan(
    form: Form,
    loop: InnerLoop,
    norm: LayerNormParams,
    state: InnerState,
    tokens: Tokens,
    tau: Tensor,
    checkpoint_group: int = 0,
) -> tuple[Tensor, InnerState]:
    """Runs a mini-batch form over any number of tokens, in time linear in T.

    Args:
        form: what computes a piece of a mini-batch.
        loop: what is learned.
        norm: scale and shift of LN, each [H, 1, D].
        state: what the tokens before have left; ``loop.start`` gives the first.
        tokens: T tokens, from wherever in a mini-batch the state stands.
        tau: token scale [b]; its length is the mini-batch size.
        checkpoint_group: pieces whose inner states the backward pass computes again instead of keeping (checkpointing
            through time); 0 keeps all.

    Returns:
        z [B, H, T, D] and the state after the last token.
    """
    lengths = piece_lengths(tokens.length, tau.numel(), state.place)
    if not checkpoint_group or not torch.is_grad_enabled():
        return _in_pieces(form, loop, lengths, norm, state, tokens, tau)
    groups = [lengths[i : i + checkpoint_group] for i in range(0, len(lengths), checkpoint_group)]
    outputs = []
    for group, piece in zip(groups, tokens.split([sum(group) for group in groups]), strict=True):
        z, state = _recomputed(form, loop, group, norm, state, piece, tau)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def piece_lengths(tokens: int, mini_batch_size: int, place: int = 0, longest: int = LONGEST_PIECE) -> list[int]:
    """Cuts tokens into pieces that stay within a mini-batch, none longer than ``longest``."""
    lengths = []
    while tokens:
        length = min(tokens, mini_batch_size - place, longest)
        lengths.append(length)
        tokens, place = tokens - length, (place + length) % mini_batch_size
    return lengths


def _in_pieces(
    form: Form,
    loop: InnerLoop,
    lengths: list[int],
    norm: LayerNormParams,
    state: InnerState,
    tokens: Tokens,
    tau: Tensor,
) -> tuple[Tensor, InnerState]:
    if len(lengths) == 1:
        return form(loop, norm, state, tokens, tau)
    outputs = []
    for piece in tokens.split(lengths):
        z, state = form(loop, norm, state, piece, tau)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def _recomputed(
    form: Form,
    loop: InnerLoop,
    lengths: list[int],
    norm: LayerNormParams,
    state: InnerState,
    tokens: Tokens,
    tau: Tensor,
) -> tuple[Tensor, InnerState]:
    """``_in_pieces`` with nothing kept for the backward pass but its arguments."""
    given = [x for x in tokens if x is not None]
    forgets, place = tokens.log_keep is not None, state.place

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        tau, scale, shift, *rest = tensors
        first = loop.unpack(tuple(rest[len(given) :]), place, forgets)
        views = Tokens(*rest[: len(given)])
        z, last = _in_pieces(form, loop, lengths, LayerNormParams(scale, shift), first, views, tau)
        return z, *last.tensors

    z, *tensors = recompute(function, tau, *norm, *given, *state.tensors)
    return z, loop.unpack(tuple(tensors), (place + sum(lengths)) % tau.numel(), forgets)
