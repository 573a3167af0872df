"""Inner models by name. To add one, add a file to this folder that calls ``register_inner_model``."""

import logging
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from ttt.config.discover import modules_of
from ttt.config.errors import bad_value
from ttt.inner.activations import ACTIVATIONS
from ttt.inner.models.base import InnerModel
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule

log = logging.getLogger(__name__)

BUILT_IN = ("linear", "mlp")

_ADDED: dict[str, InnerModel] = {}
M = TypeVar("M", bound=Callable[[int], nn.Module])


def register_inner_model(name: str) -> Callable[[M], M]:
    """Register a class for ``model.inner_model=name``: ``cls(head_dim)`` is an ``nn.Module`` on [tokens, head_dim]."""

    def register(build: M) -> M:
        _ADDED[name] = InnerModule(build)
        return build

    return register


def inner_models() -> list[str]:
    """Return all names; imports every module of this folder once."""
    modules_of(__package__)
    return [*BUILT_IN, *sorted(_ADDED)]


def make_inner_model(name: str, head_dim: int, hidden: tuple[int, ...], activation: str, bias: bool) -> InnerModel:
    """Return the inner model of this name; ``hidden`` and ``activation`` apply to MLPs, ``bias`` also to linear.

    Raises:
        UserError: an unknown model or activation, or a model whose output does not have the input's shape.
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
    _say_slow(name)
    return model


@cache
def _say_slow(name: str) -> None:
    """Say once that this inner model is slow.

    A gated MLP in a layer of width 64 took 240 times as long, forward and backward, as the compiled TTT-MLP, and 40
    times as long as its dual form in PyTorch (512 tokens, one thread, medians of 5 alternating pairs).
    """
    text = "runs token by token, about a hundred times slower than linear or mlp, which have a dual form"
    log.warning("model.inner_model=%s: %s", name, text)


def _check_shape(name: str, model: InnerModel, head_dim: int) -> None:
    W = tuple(torch.zeros(shape) for shape in model.shapes(head_dim).values())
    shape = tuple(model(W, torch.zeros(1, 1, head_dim)).shape[1:])
    if shape != (1, head_dim):
        must = f"maps a token of shape {(1, head_dim)} to {shape}; the output must have the input's shape"
        raise bad_value("model.inner_model", name, must)
