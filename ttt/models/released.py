"""Import and export weights under the parameter names of the authors' released PyTorch model."""

from collections.abc import Mapping, Set
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ttt.config.errors import UserError, bad_value
from ttt.config.identity import differences
from ttt.config.layers import CONV_KERNEL, TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig, TrainConfig
from ttt.layers.ttt import TTT
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel

REMEDY = "export it without --released"

MODEL_NAMES = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
BLOCK_NAMES = {
    "conv_norm.weight": "conv.norm.weight",
    "conv.weight": "conv.conv.weight",
    "conv.bias": "conv.conv.bias",
    "layer_norm.weight": "seq_norm.weight",
    "mlp_norm.weight": "ffn_norm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "layer.views.q.weight": "seq_modeling_block.q_proj.weight",
    "layer.views.k.weight": "seq_modeling_block.k_proj.weight",
    "layer.views.v.weight": "seq_modeling_block.v_proj.weight",
    "layer.views.conv_q.weight": "seq_modeling_block.conv_q.weight",
    "layer.views.conv_q.bias": "seq_modeling_block.conv_q.bias",
    "layer.views.conv_k.weight": "seq_modeling_block.conv_k.weight",
    "layer.views.conv_k.bias": "seq_modeling_block.conv_k.bias",
    "layer.output.g.weight": "seq_modeling_block.g_proj.weight",
    "layer.output.o.weight": "seq_modeling_block.o_proj.weight",
    "layer.W_init.W1": "seq_modeling_block.W1",
    "layer.W_init.b1": "seq_modeling_block.b1",
    "layer.W_init.W2": "seq_modeling_block.W2",
    "layer.W_init.b2": "seq_modeling_block.b2",
    "layer.norm_scale": "seq_modeling_block.ttt_norm_weight",
    "layer.norm_shift": "seq_modeling_block.ttt_norm_bias",
    "layer.eta_weight": "seq_modeling_block.learnable_ttt_lr_weight",
    "layer.eta_bias": "seq_modeling_block.learnable_ttt_lr_bias",
    "layer.token_delta": "seq_modeling_block.learnable_token_idx",
    "layer.post_norm.weight": "seq_modeling_block.post_norm.weight",
    "layer.post_norm.bias": "seq_modeling_block.post_norm.bias",
}
"""Parameter of our block -> of the released model, which has one more axis of size 1 for the learnable eta."""


def from_released(state: Mapping[str, Tensor], meta: Mapping[str, Any], kernel: str = "auto") -> LanguageModel:
    """Return a model with the released weights, in their dtype.

    Args:
        state: released parameter name -> tensor; may include ``lm_head.weight``, which is tied to the embedding.
        meta: layer (linear, mlp), backbone (transformer, mamba), num_heads, head_dim, num_layers, mini_batch_size,
            intermediate_size, vocab_size, ttt_base_lr, rope_theta, and conv_kernel unless it is 4.
        kernel: name of the kernel that computes the inner loop.

    Raises:
        UserError: a missing or unknown parameter, one of another shape, or a missing meta key.
    """
    dtype = next(iter(state.values())).dtype
    model = _empty_model(meta, kernel).to(dtype)
    remaining = dict(state)
    remaining.pop("lm_head.weight", None)
    expected = {released_name(name): parameter for name, parameter in model.named_parameters()}
    _check_names(remaining.keys(), expected.keys())
    with torch.no_grad():
        for released, parameter in expected.items():
            value = remaining[released]
            if value.numel() != parameter.numel():
                raise bad_value(
                    released, tuple(value.shape), f"the model that meta describes has {tuple(parameter.shape)}"
                )
            parameter.copy_(value.reshape(parameter.shape))
    return model


def _check_names(found: Set[str], expected: Set[str]) -> None:
    """Check that no parameter is missing or unknown.

    Raises:
        UserError: some are; the message has the first names and the numbers of all.
    """
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if missing or unknown:
        verbs = (("is", "are", "missing"), ("does", "do", "not belong to the model that meta describes"))
        parts = [
            f"{_first_names(names)} {one if len(names) == 1 else many} {rest}"
            for names, (one, many, rest) in zip((missing, unknown), verbs, strict=True)
            if names
        ]
        raise UserError(f"released weights: {'; '.join(parts)}")


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def to_released(model: LanguageModel, grads: bool = False) -> dict[str, Tensor]:
    """Return the weights, or with ``grads`` their gradients, under the released names and in the released shapes.

    Raises:
        UserError: a layer that the released model does not have, or a gradient that was not computed.
    """
    released: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.grad if grads else parameter.detach()
        if value is None:
            raise UserError(f"gradients: {name} has none; call backward() first")
        released[released_name(name)] = _released_shape(name, value)
    return released


def released_name(name: str) -> str:
    """Return the released model's name of a parameter.

    Raises:
        UserError: the released model has no such parameter.
    """
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    _, number, rest = name.split(".", 2)
    if rest not in BLOCK_NAMES:
        raise UserError(f"{name}: the released model has no such parameter; it has TTT-Linear and TTT-MLP only")
    return f"model.layers.{number}.{BLOCK_NAMES[rest]}"


def released_meta(config: TrainConfig, model: LanguageModel) -> dict[str, Any]:
    """Return the ``meta`` with which ``from_released`` rebuilds ``model`` from ``to_released(model)``.

    Args:
        config: the configuration of the model.
        model: the model; during the warm-up of eta_base, its current value is exported.

    Raises:
        UserError: the released code has no such model; the message names the settings that differ.
    """
    layer, size = config.model, config.size
    if not isinstance(layer, TTTConfig) or layer.inner_model not in ("linear", "mlp"):
        raise bad_value("model", layer.name, f"the released code has TTT-Linear and TTT-MLP only; {REMEDY}")
    eta_base = layer.eta_base * float(next(module for module in model.modules() if isinstance(module, TTT)).eta_warmup)
    meta = {
        "layer": layer.inner_model,
        "backbone": config.backbone.name,
        "num_heads": size.heads,
        "head_dim": size.width // size.heads,
        "num_layers": size.blocks,
        "mini_batch_size": layer.mini_batch_size,
        "intermediate_size": size.mlp_hidden,
        "vocab_size": model.embedding.num_embeddings,
        "ttt_base_lr": eta_base,
        "rope_theta": layer.rope_base,
        "conv_kernel": layer.conv_kernel,
    }
    theirs = asdict(_released_layer(meta)) | {"eta_base": layer.eta_base, "eta_base_start": layer.eta_base_start}
    different = differences(asdict(layer), theirs, "model.")
    if different:
        raise UserError(f"the released code has no such layer: {'; '.join(different)}; {REMEDY}")
    return meta


def _released_shape(name: str, value: Tensor) -> Tensor:
    return value.unsqueeze(1) if name.endswith(("layer.eta_weight", "layer.eta_bias")) else value


def _released_layer(meta: Mapping[str, Any]) -> TTTConfig:
    return TTTConfig(
        name=f"ttt_{meta['layer']}",
        inner_model=meta["layer"],
        hidden=[4] if meta["layer"] == "mlp" else [],
        mini_batch_size=meta["mini_batch_size"],
        eta_base=meta["ttt_base_lr"],
        eta_base_start=meta["ttt_base_lr"],
        rope_base=meta["rope_theta"],
        conv_kernel=meta.get("conv_kernel", CONV_KERNEL),
    )


def _empty_model(meta: Mapping[str, Any], kernel: str) -> LanguageModel:
    try:
        layer = _released_layer(meta)
        size = SizeConfig(
            name="released",
            width=meta["num_heads"] * meta["head_dim"],
            blocks=meta["num_layers"],
            heads=meta["num_heads"],
            mlp_hidden=meta["intermediate_size"],
        )
        return build_model(layer, size, BackboneConfig(meta["backbone"]), KernelConfig(kernel), meta["vocab_size"])
    except KeyError as error:
        raise UserError(f"released weights: meta lacks {error.args[0]}") from None
