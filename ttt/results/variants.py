"""Which runs may be averaged as seeds of one another: those whose settings agree in all that shapes what is learned."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from ttt.config.schema import Resolved
from ttt.results.record import Record, identity_of

SETTING = ["data", "size", "ctx"]
"""Columns of ``Results.runs`` that runs share when a figure compares them."""

METHOD = ["model", "backbone"]
"""Columns that name what is compared."""


def settings_of(record: Record) -> dict[str, str]:
    """All that shapes what a run learns, but for the seed: dotted key -> value as text."""
    settings = _flatten(identity_of(record))
    del settings["seed"]
    # Children of runs that are seeds of one another are so too: what counts of a parent is its ``parent.settings``.
    settings.pop("parent.run_id", None)
    # A data set's content may follow installed versions: its digest tells whether two runs learned from the same text.
    return settings | {"data.digest": record["data"]["digest"][:12], "steps_planned": str(record["steps_planned"])}


def variants(groups: Sequence[Hashable], settings: Sequence[dict[str, str]]) -> list[str]:
    """For each run, the settings in which the runs of its group differ, as ``key=value, key=value``.

    Empty where all runs of the group agree. Runs of one group and one variant are seeds of one another.

    Args:
        groups: for each run, the group it belongs to.
        settings: for each run, its ``settings_of``.
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


def _flatten(config: Resolved, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
