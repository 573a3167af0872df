"""Backbones by name. A new backbone is one new file in this folder that calls ``register_backbone``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ttt.config.discover import modules_of
from ttt.config.schema import SizeConfig


@dataclass(frozen=True)
class Backbone:
    """A registered backbone.

    Attributes:
        block: called as ``block(layer, size)``; a sequence module as ``ttt.layers.state`` has it, like its layer.
        conv_gate: whether layers in it have Mamba's convolutions on queries and keys, and its output gate.
        layers_per_block: sequence layers in the place of one block of the table of sizes.
    """

    block: Callable[[nn.Module, SizeConfig], nn.Module]
    conv_gate: bool
    layers_per_block: int


_BACKBONES: dict[str, Backbone] = {}
B = TypeVar("B", bound=type[nn.Module])


def register_backbone(name: str, conv_gate: bool = False, layers_per_block: int = 1) -> Callable[[B], B]:
    """Class decorator: ``backbone=name`` makes blocks of this class."""

    def register(cls: B) -> B:
        _BACKBONES[name] = Backbone(cls, conv_gate, layers_per_block)
        return cls

    return register


def backbones() -> dict[str, Backbone]:
    """All registered backbones by name; imports every module of this folder once."""
    modules_of(__package__)
    return dict(sorted(_BACKBONES.items()))
