"""The inner loop's state within a sequence's ``State``: the same keys and shapes wherever the sequence is cut."""

import torch
from torch import Tensor

from ttt.config.errors import bad_value
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


def in_place(state: State, dtype: torch.dtype) -> State:
    """Return the state of a model or a layer in tensors that one-token calls overwrite, as a CUDA graph needs it.

    In every inner loop ``place``, int32 on the device, replaces ``offset``. It counts on from there; modulo b it is
    the place in the mini-batch. W and ``grad_sum`` are copied to ``dtype``, all other tensors as they are.

    Raises:
        UserError: the state has the velocity of momentum.
    """
    fixed: State = {}
    for name, x in state.items():
        outer, is_inner, key = f".{name}".rpartition(".inner.")
        group = key.partition(".")[0] if is_inner else ""
        if group == "momentum":
            raise bad_value("model.momentum", "above 0", "has no decoding in place")
        if group == "offset":
            start = f"{outer}.inner.".removeprefix(".")
            fixed[f"{start}place"] = x.to(state[f"{start}decay"].device, torch.int32, copy=True)
        elif group in ("W", "grad_sum"):
            fixed[name] = x.to(dtype, memory_format=torch.contiguous_format, copy=True)
        elif group != "decay":
            fixed[name] = x.clone()
    return fixed


def parameters_in_place(names: list[str], packed: State) -> tuple[Params, Params, Tensor]:
    """Return W, the sum of the mini-batch's steps and the place of an inner loop's part of ``in_place``."""
    return _params("W", names, packed), _params("grad_sum", names, packed), packed["place"]


def _named_params(group: str, names: list[str], P: Params) -> State:
    return named(group, dict(zip(names, P, strict=True)))


def _params(group: str, names: list[str], packed: State) -> Params:
    by_name = part(packed, group)
    return tuple(by_name[name] for name in names)
