"""Identity of a run: the keys that decide what is learned, and no others."""

import hashlib
import json
from dataclasses import asdict

from ttt.config.schema import Resolved, TrainConfig

BOOKKEEPING = ("trainer", "runs", "run", "runs_dir", "run_dir", "ckpt", "overwrite")
"""Keys that decide where and how a run is computed, not what it learns. Older records have runs_dir and run_dir."""

WITHOUT_INFLUENCE = (
    ("data", "cache_dir"),
    ("data", "workers"),
    ("kernel", "checkpoint_group"),
    ("recipe", "parent_share"),
)
"""Keys (group, key) without influence on what is learned, in groups that otherwise count."""

COUNTED_IN_PARENT = ("run_id", "steps", "settings")

CONTEXT_UNIT = 1024


def identity(plain: Resolved) -> Resolved:
    """Return a configuration, as plain containers, without its bookkeeping.

    A parent counts by its run id, its steps and its settings; the path of its folder and the digest of its weights,
    which depends on rounding, do not count. ``recipe.parent_share`` counts through the steps that follow from it.
    """
    kept = {key: value for key, value in plain.items() if key not in (*BOOKKEEPING, "parent")}
    parent = plain.get("parent", {})
    if parent.get("run_id"):
        kept["parent"] = {name: parent.get(name) for name in COUNTED_IN_PARENT}
    for group, key in WITHOUT_INFLUENCE:
        kept[group] = {name: value for name, value in kept[group].items() if name != key}
    return kept


def run_id(config: TrainConfig) -> str:
    """Return a readable name with a hash of the identity, such as ``ttt_linear-mamba-s1-512-pycode-seed0-1a2b3c4d``."""
    text = json.dumps(identity(asdict(config)), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = (config.model.name, config.backbone.name, config.size.name, context_name(config.ctx.length))
    return "-".join([*parts, config.data.name, f"seed{config.seed}", digest])


def context_name(length: int) -> str:
    """Return the name of a context length as in the ``ctx`` group: 2048 -> 2k, 512 -> 512."""
    return f"{length // CONTEXT_UNIT}k" if length % CONTEXT_UNIT == 0 else str(length)


def differences(ours: Resolved, theirs: Resolved, prefix: str = "") -> list[str]:
    """Return ``key=ours, not theirs`` for every leaf in which two nested containers differ."""
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += differences(mine, other, f"{prefix}{key}.")
        elif mine != other:
            found.append(f"{prefix}{key}={mine}, not {other}")
    return found
