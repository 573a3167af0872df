"""Build a model from a configuration."""

from typing import cast

from torch import nn

from ttt.backbones.registry import Backbone, backbones
from ttt.config.errors import bad_value
from ttt.config.layers import CONV_KERNEL, SHIPPED, HybridConfig, TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, LayerConfig, SizeConfig
from ttt.layers.by_kernel import set_kernel
from ttt.layers.convolution import CausalConv
from ttt.layers.registry import LayerSpec, build_layer, layer_type, layer_types
from ttt.models.language_model import LanguageModel


def build_model(
    layer: LayerConfig, size: SizeConfig, backbone: BackboneConfig, kernel: KernelConfig, vocab_size: int
) -> LanguageModel:
    """Return the language model of a configuration, with initial values drawn from torch's generator.

    Raises:
        UserError: an unknown name, a layer that the backbone cannot contain, or a pattern that does not fit the blocks.
    """
    known = backbones()
    if backbone.name not in known:
        raise bad_value("backbone.name", backbone.name, f"choose one of {', '.join(known)}")
    if backbone.conv_init != "torch" and not known[backbone.name].conv_gate:
        raise bad_value("backbone.conv_init", backbone.conv_init, f"backbone={backbone.name} has no convolution")
    places = _places(layer, size, backbone.name)
    depth = sum(place.layers_per_block for _, place in places)
    blocks = [
        _block(config, place, LayerSpec(size.width, size.heads, size.init_std, place.conv_gate, depth, kernel), size)
        for config, place in places
        for _ in range(place.layers_per_block)
    ]
    model = LanguageModel(vocab_size, size.width, blocks, size.init_std)
    model.norm.eps = _norm_eps(blocks[-1]) or model.norm.eps
    for module in model.modules():
        if isinstance(module, CausalConv) and backbone.conv_init == "lecun":
            module.init_lecun()
    set_kernel(model, kernel)
    return model


def _places(layer: LayerConfig, size: SizeConfig, backbone: str) -> list[tuple[LayerConfig, Backbone]]:
    """Return the layer and its backbone for each of ``size.blocks`` places."""
    if not isinstance(layer, HybridConfig):
        return [(layer, _backbone(layer, backbone, backbones_of(layer.name)))] * size.blocks
    layer.check_fits(size.blocks)
    layers = [pattern_layer(layer, name) for name in layer.pattern]
    places = [(one, _backbone_in_hybrid(one, backbone)) for one in layers]
    return places * (size.blocks // len(layers))


def _backbone_in_hybrid(layer: LayerConfig, name: str) -> Backbone:
    """Return the backbone of this name, or the layer's own where it cannot contain the layer.

    A layer of which two replace a block with a feed-forward part, such as Mamba, keeps its own too, so that all places
    have about the same parameters.
    """
    allowed = backbones_of(layer.name)
    own = backbones()[allowed[0]]
    return own if name not in allowed or own.layers_per_block > 1 else _backbone(layer, name, allowed)


def pattern_layer(hybrid: HybridConfig, name: str) -> LayerConfig:
    """Return the configuration of a layer that ``model.pattern`` names.

    Raises:
        UserError: no layer has this name.
    """
    if name in hybrid.names():
        return cast(LayerConfig, getattr(hybrid, name))
    added = [layer for layer in layer_types() if layer not in SHIPPED]
    if name not in added:
        raise bad_value("model.pattern", name, f"choose from {', '.join([*hybrid.names(), *added])}")
    return layer_type(name).schema(name=name)


def _backbone(layer: LayerConfig, name: str, allowed: tuple[str, ...]) -> Backbone:
    if name not in allowed:
        raise bad_value("backbone", name, f"model={layer.name} sits in {' or '.join(allowed)}")
    chosen = backbones()[name]
    if isinstance(layer, TTTConfig) and layer.conv_kernel != CONV_KERNEL and not chosen.conv_gate:
        raise bad_value("model.conv_kernel", layer.conv_kernel, f"backbone={name} has no convolution")
    return chosen


def _block(config: LayerConfig, backbone: Backbone, spec: LayerSpec, size: SizeConfig) -> nn.Module:
    """Return a block around a layer, whose norms have the layer's epsilon, if it states one."""
    block = backbone.block(build_layer(config, spec), size)
    norm_eps = _norm_eps(block)
    for module in block.modules():
        if isinstance(module, nn.RMSNorm) and norm_eps is not None:
            module.eps = norm_eps
    return block


def _norm_eps(block: nn.Module) -> float | None:
    """Return the epsilon of norms that a module of the block states, or None."""
    hooks = (getattr(module, "norm_eps", None) for module in block.modules())
    return next((value for value in hooks if value is not None), None)


def backbones_of(layer: str) -> tuple[str, ...]:
    """Return the backbones that can contain a layer, the paper's first.

    Raises:
        UserError: no layer has this name.
    """
    added = [name for name, backbone in backbones().items() if layer in backbone.layers]
    return (*layer_type(layer).backbones, *added)
