"""The inner loop's state as part of a sequence's ``State``: the same keys and shapes wherever a sequence was cut."""

import torch

from ttt.inner.loop import InnerState
from ttt.inner.models.base import Params
from ttt.layers.state import State, named, part


def pack(names: list[str], state: InnerState) -> State:
    """The state under the parameters' names; what is None at the start of a mini-batch is written as it counts.

    ``place`` stays on the CPU when the state is made, so that reading it waits for no other device.
    """
    zeros = tuple(map(torch.zeros_like, state.W))
    kept = state.W[0].new_ones(state.W[0].shape[:2]) if state.kept is None else state.kept
    packed = {"place": torch.tensor(state.place), "kept": kept}
    packed |= _named_params("W", names, state.W) | _named_params("step", names, state.step or zeros)
    if state.momentum is not None:
        packed |= _named_params("momentum", names, state.momentum)
    return packed


def unpack(names: list[str], packed: State, momentum: bool) -> InnerState:
    """The inverse of ``pack``."""
    place = int(packed["place"])
    W, step = _params("W", names, packed), _params("step", names, packed)
    velocity = _params("momentum", names, packed) if momentum else None
    return InnerState(W, step if place else None, velocity, packed["kept"] if place else None, place)


def _named_params(group: str, names: list[str], P: Params) -> State:
    return named(group, dict(zip(names, P, strict=True)))


def _params(group: str, names: list[str], packed: State) -> Params:
    found = part(packed, group)
    return tuple(found[name] for name in names)
