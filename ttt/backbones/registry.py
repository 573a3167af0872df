"""Backbones by name. To add one, add a file to this folder that uses ``@register_backbone``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ttt.config.discover import modules_of
from ttt.config.schema import SizeConfig
from ttt.layers.state import SequenceLayer


@dataclass(frozen=True)
class Backbone:
    """A registered backbone.

    Attributes:
        block: ``block(layer, size)`` returns an ``nn.Module`` with the contract of a ``SequenceLayer``
            (``ttt.layers.state``): (h [B, T, C], state) -> (h [B, T, C], state).
        conv_gate: whether its layers have Mamba's convolutions on queries and keys, and its output gate.
        layers_per_block: number of sequence layers per block of ``size.blocks``.
        layers: layers that it can contain besides those that name it in ``register_layer``.
    """

    block: Callable[[SequenceLayer, SizeConfig], nn.Module]
    conv_gate: bool
    layers_per_block: int
    layers: tuple[str, ...]


_BACKBONES: dict[str, Backbone] = {}
B = TypeVar("B", bound=type[nn.Module])


def register_backbone(
    name: str, conv_gate: bool = False, layers_per_block: int = 1, layers: tuple[str, ...] = ()
) -> Callable[[B], B]:
    """Register a class of blocks for ``backbone=name``."""

    def register(cls: B) -> B:
        _BACKBONES[name] = Backbone(cls, conv_gate, layers_per_block, layers)
        return cls

    return register


def backbones() -> dict[str, Backbone]:
    """Return all registered backbones by name; imports every module of this folder once."""
    modules_of(__package__)
    return dict(sorted(_BACKBONES.items()))
