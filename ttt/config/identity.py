"""The identity of a run: the part of its configuration that decides what is learned, and a name made of it.

The keys of ``FROZEN`` always count. A key that was added later counts only where its value differs from its default, so
that adding a key renames no run and finished sweeps stay finished. The default in the schema must reproduce the
behaviour before the key existed. Never change such a default or ``FROZEN``: the names of existing runs depend on them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, cast

from ttt.config.schema import Resolved, TrainConfig

BOOKKEEPING = ("trainer", "runs", "run", "runs_dir", "run_dir", "ckpt", "overwrite", "plan")
"""Keys of a configuration that specify where and how to run, and their names in old records."""

WITHOUT_INFLUENCE = (
    ("data", "tokens_estimate"),
    ("data", "cache_dir"),
    ("data", "workers"),
    ("data", "packed"),
    ("kernel", "checkpoint_group"),
    ("kernel", "matmul"),
    ("kernel", "rotates"),
    ("recipe", "parent_share"),
)
"""Group and key of settings that do not affect what is learned, in groups that otherwise count."""

COUNTED_IN_PARENT = ("run_id", "steps", "settings")

FROZEN: dict[str, tuple[str, ...]] = {
    "size": (
        "name", "width", "blocks", "heads", "mlp_hidden", "init_std", "steps", "tokens_per_step", "learning_rate",
    ),
    "ctx": ("length",),
    "backbone": ("name",),
    "kernel": ("name",),
    "data": (
        "name", "source", "packages", "hub", "revision", "path", "column", "min_chars", "max_chars", "vocab_size",
        "tokenizer", "validation_fraction", "test_fraction", "eval_tokens",
    ),
    "recipe": (
        "name", "steps", "tokens_per_step", "learning_rate", "final_learning_rate", "warmup", "betas", "weight_decay",
        "clip",
    ),
}  # fmt: skip
"""Group -> keys that count at any value: those that existed when the first runs were published."""

FROZEN_IN_TTT = (
    "inner_model", "hidden", "activation", "inner_bias", "mini_batch_size", "W_init", "norm", "learnable_norm",
    "residual", "halved_loss", "learnable_eta", "eta_base", "eta_base_start", "eta_over_dim", "token_scale", "momentum",
    "forget_gate", "rope_base",
)  # fmt: skip

FROZEN_IN_LAYERS: dict[str, tuple[str, ...]] = {
    "ttt_linear": FROZEN_IN_TTT,
    "ttt_mlp": FROZEN_IN_TTT,
    "linear_attention": ("feature_map", "normaliser", "rope_base"),
    "transformer": ("rope_base",),
    "mamba": ("state_size", "expand", "conv_kernel", "dt_rank"),
}
"""Layer -> keys of ``model`` that count at any value besides ``name``; those of any other layer are later keys."""

FROZEN_ALONE = ("seed",)
"""Keys outside the groups that count at any value."""


def _one_rate_per_backbone(rate: Any) -> Any:
    return rate if isinstance(rate, dict) else dict.fromkeys(("transformer", "mamba", "own"), rate)


def _switch(token_scale: Any) -> Any:
    return {"learned": True, "none": False}.get(token_scale, token_scale)


HASHED_AS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("size", "learning_rate"): _one_rate_per_backbone,
    ("model", "token_scale"): _switch,
}
"""Group and key -> translation of its value to the type that it had in the first records.

| key                | value since        | counts as                                        |
|--------------------|--------------------|--------------------------------------------------|
| size.learning_rate | one number x       | {transformer: x, mamba: x, own: x}, as it was    |
| model.token_scale  | learned, none      | true, false                                      |

A table in an old record stays as it is: 28 of the published runs have different rates for different backbones.
"""

SHAPE = ("width", "blocks", "heads", "mlp_hidden")
"""Keys of a size that decide which weights a model has; the others are for training."""

CONTEXT_UNIT = 1024


def identity(config: TrainConfig) -> Resolved:
    """Return the part of a configuration that identifies a run, as JSON values.

    A parent counts by its run id, its steps and its settings; the path of its folder and the digest of its weights,
    which depends on rounding, do not count. ``recipe.parent_share`` counts through the steps that follow from it.
    """
    counted: Resolved = {}
    for key, value in without_bookkeeping(_as_json(config)).items():
        node = getattr(config, key)
        if key in ("parent", *FROZEN_ALONE):
            counted[key] = value
        elif is_dataclass(node) and not isinstance(node, type):
            counted[key] = _counting(value, _as_json(type(node)()), _frozen(key, value))
        else:
            counted |= _counting({key: value}, _as_json(type(config)()), ())
    return {key: value for key, value in counted.items() if value != {} or key in ("model", *FROZEN)}


def _as_json(node: Any) -> Resolved:
    return cast(Resolved, json.loads(json.dumps(asdict(node))))


def without_bookkeeping(plain: Resolved) -> Resolved:
    """Return the keys of a plain configuration that can count; in old records, all of them do."""
    counted = {key: value for key, value in plain.items() if key not in (*BOOKKEEPING, "parent")}
    parent = plain.get("parent", {})
    if parent.get("run_id"):
        counted["parent"] = {name: parent.get(name) for name in COUNTED_IN_PARENT}
    for group, key in WITHOUT_INFLUENCE:
        if key in counted.get(group, {}):
            counted[group] = {name: value for name, value in counted[group].items() if name != key}
    for (group, key), translate in HASHED_AS.items():
        if key in counted.get(group, {}):
            counted[group] = counted[group] | {key: translate(counted[group][key])}
    return counted


def _frozen(group: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    if group == "model":
        return ("name", *FROZEN_IN_LAYERS.get(values["name"], ()))
    return FROZEN.get(group, ())


def _counting(values: Resolved, defaults: Resolved, frozen: tuple[str, ...]) -> Resolved:
    counting = {key: value for key, value in values.items() if key in frozen or value != defaults.get(key)}
    # The keys of a layer in a hybrid count one by one.
    groups = {key for key in counting.keys() - set(frozen) if isinstance(defaults.get(key), dict)}
    return {key: _counting(value, defaults[key], ()) if key in groups else value for key, value in counting.items()}


def run_id(config: TrainConfig) -> str:
    """Return a readable name with a hash of the identity: ``ttt_linear-mamba-w64-512-pycode-seed0-1a2b3c4d``."""
    text = json.dumps(identity(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = (config.model.name, config.backbone.name, config.size.name, context_name(config.ctx.length))
    return "-".join([*parts, config.data.name, f"seed{config.seed}", digest])


def settings_digest(identity: Resolved) -> str:
    """Return a hash of an identity that is equal for runs that differ only in the seed, their parents' included."""
    settings = {key: value for key, value in identity.items() if key != "seed"}
    if "parent" in settings:
        settings["parent"] = {**settings["parent"], "run_id": None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def model_shape(identity: Resolved) -> Resolved:
    """Return the settings that parent and child must share; not RoPE's base, which a longer context needs to change."""
    return {
        "model": {key: value for key, value in identity["model"].items() if key != "rope_base"},
        "size": {key: identity["size"][key] for key in SHAPE},
        "backbone": identity["backbone"],
    }


def context_name(length: int) -> str:
    """Return the name of a context length as in the ``ctx`` group: 2048 -> 2k, 512 -> 512."""
    return f"{length // CONTEXT_UNIT}k" if length % CONTEXT_UNIT == 0 else str(length)


def differences(ours: Resolved, theirs: Resolved, prefix: str = "") -> list[str]:
    """Return ``key=ours, not theirs`` for every leaf in which two nested containers differ."""
    lines: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            lines += differences(mine, other, f"{prefix}{key}.")
        elif mine != other:
            lines.append(f"{prefix}{key}={mine}, not {other}")
    return lines
