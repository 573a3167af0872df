"""Build a model from a configuration."""

from torch import nn

from ttt.backbones.registry import backbones
from ttt.config.errors import bad_value
from ttt.config.layers import CONV_KERNEL, TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, LayerConfig, SizeConfig
from ttt.layers.convolution import CausalConv
from ttt.layers.registry import LayerSpec, build_layer, layer_type
from ttt.models.language_model import LanguageModel


def build_model(
    layer: LayerConfig, size: SizeConfig, backbone: BackboneConfig, kernel: KernelConfig, vocab_size: int
) -> LanguageModel:
    """Return the language model of a configuration, with initial values drawn from torch's generator.

    Raises:
        UserError: an unknown name, or a layer that this backbone cannot contain.
    """
    known = backbones()
    if backbone.name not in known:
        raise bad_value("backbone.name", backbone.name, f"choose one of {', '.join(known)}")
    allowed = backbones_of(layer.name)
    if backbone.name not in allowed:
        raise bad_value("backbone", backbone.name, f"model={layer.name} sits in {' or '.join(allowed)}")
    chosen = known[backbone.name]
    if isinstance(layer, TTTConfig) and layer.conv_kernel != CONV_KERNEL and not chosen.conv_gate:
        raise bad_value("model.conv_kernel", layer.conv_kernel, f"backbone={backbone.name} has no convolution")
    depth = size.blocks * chosen.layers_per_block
    spec = LayerSpec(size.width, size.heads, size.init_std, chosen.conv_gate, depth, kernel)
    if backbone.conv_init != "torch" and not chosen.conv_gate:
        raise bad_value("backbone.conv_init", backbone.conv_init, f"backbone={backbone.name} has no convolution")
    blocks = [chosen.block(build_layer(layer, spec), size) for _ in range(depth)]
    model = LanguageModel(vocab_size, size.width, blocks, size.init_std)
    hooks = (getattr(module, "norm_eps", None) for module in model.modules())
    norm_eps: float | None = next((value for value in hooks if value is not None), None)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm) and norm_eps is not None:
            module.eps = norm_eps
        elif isinstance(module, CausalConv) and backbone.conv_init == "lecun":
            module.init_lecun()
    return model


def backbones_of(layer: str) -> tuple[str, ...]:
    """Return the backbones that can contain a layer, the paper's first.

    Raises:
        UserError: no layer has this name.
    """
    added = [name for name, backbone in backbones().items() if layer in backbone.layers]
    return (*layer_type(layer).backbones, *added)
