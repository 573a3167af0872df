"""Which runs may be averaged as seeds of one another: those whose settings agree in all that shapes what is learned."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from ttt.config.schema import Resolved

SETTING = ["data", "size", "ctx"]
"""Columns of ``Results.runs`` that runs share when a figure compares them."""

METHOD = ["model", "backbone"]
"""Columns that name what is compared."""

NOT_LEARNED = ("seed", "runs_dir", "run_dir", "ckpt", "overwrite", "kernel", "trainer", "data.cache_dir")
"""Keys and groups of keys that change where, how fast and from which random numbers a run learns, but not what."""

LEARNED = ("trainer.max_steps",)
"""Exceptions to ``NOT_LEARNED``."""


def learned_settings(config: Resolved) -> dict[str, str]:
    """The settings that shape what is learned: dotted key -> value as text."""
    return {key: value for key, value in _flatten(config).items() if key in LEARNED or not _within(key, NOT_LEARNED)}


def variants(groups: Sequence[Hashable], settings: Sequence[dict[str, str]]) -> list[str]:
    """For each run, the settings in which the runs of its group differ, as ``key=value, key=value``.

    Empty where all runs of the group agree. Runs of one group and one variant are seeds of one another.

    Args:
        groups: for each run, the group it belongs to.
        settings: for each run, its ``learned_settings``.
    """
    members = defaultdict(list)
    for group, setting in zip(groups, settings, strict=True):
        members[group].append(setting)
    differing = {group: _differing(found) for group, found in members.items()}
    return [
        ", ".join(f"{key}={setting.get(key, 'absent')}" for key in differing[group])
        for group, setting in zip(groups, settings, strict=True)
    ]


def _differing(settings: list[dict[str, str]]) -> list[str]:
    keys = sorted({key for setting in settings for key in setting})
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flatten(config: Resolved, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
