"""Inner models by name. A new one is one new file in this folder that calls ``register_inner_model``."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ttt.config.discover import modules_of
from ttt.config.errors import bad_value
from ttt.inner.activations import ACTIVATIONS
from ttt.inner.models.base import InnerModel
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule

BUILT_IN = ("linear", "mlp")

_ADDED: dict[str, InnerModel] = {}
M = TypeVar("M", bound=Callable[[int], nn.Module])


def register_inner_model(name: str) -> Callable[[M], M]:
    """Class decorator: ``model.inner_model=name`` takes ``cls(head_dim)``, an ``nn.Module`` of [tokens, head_dim]."""

    def register(build: M) -> M:
        _ADDED[name] = InnerModule(build)
        return build

    return register


def inner_models() -> list[str]:
    """All names; imports every module of this folder once."""
    modules_of(__package__)
    return [*BUILT_IN, *sorted(_ADDED)]


def make_inner_model(name: str, head_dim: int, hidden: tuple[int, ...], activation: str, bias: bool) -> InnerModel:
    """The inner model of this name; ``hidden``, ``activation`` and ``bias`` are the MLP's, ``bias`` linear's too.

    Raises:
        UserError: no such model or activation, or one whose output has not its input's shape.
    """
    known = inner_models()
    if name not in known:
        raise bad_value("model.inner_model", name, f"choose one of {', '.join(known)}")
    if activation not in ACTIVATIONS:
        raise bad_value("model.activation", activation, f"choose one of {', '.join(ACTIVATIONS)}")
    if name in BUILT_IN:
        return InnerMLP(hidden if name == "mlp" else (), activation, bias)
    model = _ADDED[name]
    _check_shape(name, model, head_dim)
    return model


def _check_shape(name: str, model: InnerModel, head_dim: int) -> None:
    W = tuple(torch.zeros(shape) for shape in model.shapes(head_dim).values())
    shape = tuple(model(W, torch.zeros(1, 1, head_dim)).shape[1:])
    if shape != (1, head_dim):
        must = f"maps a token of shape {(1, head_dim)} to {shape}; the output must have the input's shape"
        raise bad_value("model.inner_model", name, must)
