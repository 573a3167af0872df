"""Layer types by name. To add a layer, add a file to this folder that uses ``@register_layer``."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from ttt.config.discover import modules_of
from ttt.config.errors import bad_value
from ttt.config.layers import MODELS
from ttt.config.schema import KernelConfig, LayerConfig
from ttt.layers.by_kernel import set_kernel


@dataclass(frozen=True)
class LayerSpec:
    """Everything that a sequence layer is built from besides its own configuration.

    Attributes:
        width: C, the model width.
        heads: H; the head width is D = C / H.
        init_std: standard deviation of the initial projections.
        conv_gate: whether the backbone requires Mamba's temporal convolutions on the shared query / key projection
            and its output gate (the paper's Mamba backbone, Section 2.7).
        depth: number of sequence layers in the model, for initial values that depend on it.
        kernel: the kernel that computes an inner loop, a scan, convolutions and linear maps.
    """

    width: int
    heads: int
    init_std: float = 0.02
    conv_gate: bool = False
    depth: int = 1
    kernel: KernelConfig = field(default_factory=KernelConfig)

    @property
    def head_dim(self) -> int:
        """D = C / H."""
        return self.width // self.heads


@dataclass(frozen=True)
class LayerType:
    """A registered layer: its class, its schema and the backbones that can contain it, the paper's first."""

    build: Callable[..., nn.Module]
    schema: type[LayerConfig]
    backbones: tuple[str, ...]


_LAYERS: dict[str, LayerType] = {}
L = TypeVar("L", bound=type[nn.Module])


def register_layer(name: str, schema: type[LayerConfig], backbones: tuple[str, ...]) -> Callable[[L], L]:
    """Register a class for ``model=name``: ``cls(config, spec)`` is a ``SequenceLayer`` (``ttt.layers.state``)."""

    def register(cls: L) -> L:
        _LAYERS[name] = LayerType(cls, schema, backbones)
        return cls

    return register


def layer_types() -> dict[str, LayerType]:
    """Return all registered layers by name; imports every module of this folder once."""
    modules_of(__package__)
    return dict(sorted(_LAYERS.items()))


def layer_type(name: str) -> LayerType:
    """Return the layer of this name.

    Raises:
        UserError: no layer has this name.
    """
    types = layer_types()
    if name not in types:
        raise bad_value("model.name", name, f"choose one of {', '.join(types)}")
    return types[name]


def layer_schema(name: str) -> type[LayerConfig]:
    """Return the schema of ``model=name``, also of a hybrid of layers.

    Raises:
        UserError: no such model.
    """
    return MODELS[name] if name in MODELS else layer_type(name).schema


def build_layer(config: LayerConfig, spec: LayerSpec) -> nn.Module:
    """Return the ``SequenceLayer`` that ``config`` describes, with its initial values.

    Raises:
        UserError: no layer has this name, or ``config`` has an invalid value.
    """
    kind = layer_type(config.name)
    config.check()
    layer = kind.build(config, spec)
    set_kernel(layer, spec.kernel)
    return layer
