"""The settings of a released model: from the shapes of its weights, compared with its configuration file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ttt.config.errors import UserError, bad_value, first_line

BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
LAYER = "seq_modeling_block"
ROPE_BASE, CONTEXT = 10000.0, 2048
"""Defaults of the released code, for a checkpoint without a configuration file."""

BASE_RATE = {"linear": 1.0, "mlp": 0.1}
"""``ttt_base_lr`` in the authors' scripts, for a checkpoint without a configuration file."""

CONFIG_FILE = "config.json"

NAMES_IN_CONFIG: dict[str, tuple[str, ...]] = {
    "num_heads": ("num_attention_heads",),
    "width": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "intermediate_size": ("intermediate_size",),
    "vocab_size": ("vocab_size",),
    "mini_batch_size": ("mini_batch_size",),
    "conv_kernel": ("conv_kernel", "conv_width"),
    "layer": ("ttt_layer_type",),
    "block": ("seq_modeling_block",),
    "pre_conv": ("pre_conv",),
    "use_gate": ("use_gate",),
    "share_qk": ("share_qk",),
    "rms_norm_eps": ("rms_norm_eps",),
    "hidden_act": ("hidden_act",),
}
"""Setting -> its names in the configuration files of the PyTorch and the JAX code."""


@dataclass(frozen=True)
class ReleasedSettings:
    """What is needed besides the weights.

    Attributes:
        meta: the ``meta`` of ``ttt.models.released.from_released``.
        ctx: tokens of the context that the model was trained at.
        assumed: settings that no file has, with the value that was taken.
    """

    meta: dict[str, Any]
    ctx: int
    assumed: dict[str, float]


def settings_of(
    state: Mapping[str, Tensor], path: Path, eta_base: float | None, rope_base: float | None, ctx: int | None
) -> ReleasedSettings:
    """Return the settings of a model.

    Args:
        state: its weights under the names of the PyTorch code.
        path: the file or folder that they are from; ``config.json`` is looked for there.
        eta_base: base of the inner learning rate; None: from ``config.json``, else that of the authors' scripts.
        rope_base: base of RoPE; None: from ``config.json``, else that of the released code.
        ctx: context; None: from ``config.json``, else that of the released code.

    Raises:
        UserError: the weights are not those of a TTT model, or ``config.json`` describes another one.
    """
    shapes = _from_shapes(state, path)
    file = (path if path.is_dir() else path.parent) / CONFIG_FILE
    config = _read_config(file) if file.is_file() else {}
    _compare(shapes, config, file)
    _check_head(state, path)
    layer = shapes["layer"]
    given = {"ttt_base_lr": eta_base, "rope_theta": rope_base, "ctx": ctx}
    stored = {
        "ttt_base_lr": config.get("ttt_base_lr"),
        "rope_theta": config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta"),
        "ctx": config.get("max_sequence_length") or config.get("max_position_embeddings"),
    }
    usual = {"ttt_base_lr": BASE_RATE[layer], "rope_theta": ROPE_BASE, "ctx": CONTEXT}
    found = {key: next((x for x in (given[key], stored[key]) if x is not None), None) for key in usual}
    assumed = {key: float(usual[key]) for key, value in found.items() if value is None}
    values = {key: usual[key] if value is None else value for key, value in found.items()}
    kept = ("layer", "backbone", "num_heads", "head_dim", "num_layers", "mini_batch_size", "intermediate_size")
    meta = {key: shapes[key] for key in (*kept, "vocab_size", "conv_kernel")}
    meta |= {"ttt_base_lr": float(values["ttt_base_lr"]), "rope_theta": float(values["rope_theta"])}
    return ReleasedSettings(meta, int(values["ctx"]), assumed)


def config_of(meta: Mapping[str, Any], ctx: int) -> dict[str, Any]:
    """Return the content of ``config.json`` of the released PyTorch code, from a ``meta`` and the context."""
    mamba = meta["backbone"] == "mamba"
    return {
        "model_type": "ttt",
        "vocab_size": meta["vocab_size"],
        "hidden_size": meta["num_heads"] * meta["head_dim"],
        "intermediate_size": meta["intermediate_size"],
        "num_hidden_layers": meta["num_layers"],
        "num_attention_heads": meta["num_heads"],
        "hidden_act": "silu",
        "max_position_embeddings": ctx,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_theta": meta["rope_theta"],
        "use_gate": mamba,
        "share_qk": mamba,
        "pre_conv": mamba,
        "conv_kernel": meta["conv_kernel"],
        "ttt_layer_type": meta["layer"],
        "ttt_base_lr": meta["ttt_base_lr"],
        "mini_batch_size": meta["mini_batch_size"],
    }


def _from_shapes(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if found := BLOCK.fullmatch(name):
            blocks.setdefault(int(found[1]), {})[found[2]] = value
    first = blocks.get(0, {})
    needed = (f"{LAYER}.W1", f"{LAYER}.learnable_token_idx", "mlp.gate_proj.weight")
    missing = [f"model.layers.0.{name}" for name in needed if name not in first]
    missing += [name for name in ("model.embed_tokens.weight",) if name not in state]
    if missing:
        raise bad_value("from", path, f"has no TTT model: {', '.join(missing)} is missing; see docs/released.md")
    W1, gate = first[f"{LAYER}.W1"], first["mlp.gate_proj.weight"]
    parts = {
        "pre_conv": "conv.conv.weight" in first,
        "use_gate": f"{LAYER}.g_proj.weight" in first,
        "share_qk": f"{LAYER}.k_proj.weight" not in first,
    }
    if len(set(parts.values())) > 1:
        has = ", ".join(f"{key}={str(value).lower()}" for key, value in parts.items())
        raise bad_value("from", path, f"mixes the two backbones ({has}); the suite has all three or none")
    layer, mamba = "mlp" if f"{LAYER}.W2" in first else "linear", parts["pre_conv"]
    vocab_size, width = state["model.embed_tokens.weight"].shape
    return parts | {
        "layer": layer,
        "backbone": "mamba" if mamba else "transformer",
        "block": f"ttt_{layer}" if mamba else f"ttt_{layer}_base",
        "num_heads": W1.shape[0],
        "head_dim": W1.shape[1],
        "width": width,
        "num_layers": max(blocks) + 1,
        "mini_batch_size": len(first[f"{LAYER}.learnable_token_idx"]),
        "intermediate_size": gate.shape[0],
        "vocab_size": vocab_size,
        "conv_kernel": first["conv.conv.weight"].shape[-1] if mamba else 4,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
    }


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); restore it, or remove it") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: is no configuration of a model; restore it, or remove it")
    return config


def _compare(shapes: Mapping[str, Any], config: Mapping[str, Any], file: Path) -> None:
    for setting, names in NAMES_IN_CONFIG.items():
        for name in names:
            stored = config.get(name)
            # The convolutions of a backbone without any have no width.
            if stored is None or (setting == "conv_kernel" and shapes["backbone"] == "transformer"):
                continue
            if stored != shapes[setting]:
                raise UserError(f"{file}: {name}={stored}, but the weights are of a model with {shapes[setting]}")


def _check_head(state: Mapping[str, Tensor], path: Path) -> None:
    head, embedding = state.get("lm_head.weight"), state["model.embed_tokens.weight"]
    if head is not None and not (head.shape == embedding.shape and bool((head == embedding).all())):
        raise bad_value("from", path, "has an output head of its own; in the suite it is tied to the embedding")
