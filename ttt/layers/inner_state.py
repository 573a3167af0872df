"""The inner loop's state within a sequence's ``State``: the same keys and shapes wherever the sequence is cut."""

import torch

from ttt.inner.loop import InnerState
from ttt.inner.models.base import Params
from ttt.layers.state import State, named, part


def pack(names: list[str], state: InnerState) -> State:
    """Return the state under the parameters' names; None at the start of a mini-batch becomes zeros or ones.

    ``offset`` stays on the CPU, so that reading it does not wait for another device.
    """
    # Zeros of W's size take a third of the memory traffic of a decoded token: only where there is no sum.
    grad_sum = tuple(map(torch.zeros_like, state.W)) if state.grad_sum is None else state.grad_sum
    decay = state.W[0].new_ones(state.W[0].shape[:2]) if state.decay is None else state.decay
    packed = {"offset": torch.tensor(state.offset), "decay": decay}
    packed |= _named_params("W", names, state.W) | _named_params("grad_sum", names, grad_sum)
    if state.momentum is not None:
        packed |= _named_params("momentum", names, state.momentum)
    return packed


def unpack(names: list[str], packed: State, momentum: bool) -> InnerState:
    """Return the inner loop's state: the inverse of ``pack``."""
    offset = int(packed["offset"])
    W, grad_sum = _params("W", names, packed), _params("grad_sum", names, packed)
    velocity = _params("momentum", names, packed) if momentum else None
    return InnerState(W, grad_sum if offset else None, velocity, packed["decay"] if offset else None, offset)


def _named_params(group: str, names: list[str], P: Params) -> State:
    return named(group, dict(zip(names, P, strict=True)))


def _params(group: str, names: list[str], packed: State) -> Params:
    by_name = part(packed, group)
    return tuple(by_name[name] for name in names)
