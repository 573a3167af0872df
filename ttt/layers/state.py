"""The state of a sequence between two of its pieces.

A sequence module maps (x [B, T, C], state) to (y [B, T, C], state): whatever the cut of a sequence into pieces, the
pieces' outputs are the whole's. A state is a flat dictionary of tensors, named as a ``state_dict`` is: it can be saved
with ``torch.save`` or safetensors, and moved between devices tensor by tensor. An empty one stands before the first
token.
"""

from torch import Tensor

State = dict[str, Tensor]


def part(state: State | None, name: str) -> State:
    """The state of the submodule ``name``; empty at the start of a sequence."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}


def named(name: str, state: State) -> State:
    """The inverse of ``part``: the submodule's state under its name."""
    return {f"{name}.{key}": value for key, value in state.items()}
