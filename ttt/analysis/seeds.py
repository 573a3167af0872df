"""Groups of runs to average over seeds: they agree in every setting that affects what is learned."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from ttt.config.schema import Resolved
from ttt.results.record import Record, identity_of


def settings_of(record: Record) -> dict[str, str]:
    """Return every setting that affects what a run learns, except the seed: dotted key -> value as text."""
    settings = _flatten(identity_of(record))
    del settings["seed"]
    # Finetuned runs whose parents differ only in seed count as seeds too: ``parent.settings`` describes the parent.
    settings.pop("parent.run_id", None)
    # The text of a data set can depend on installed packages; equal digests mean equal text.
    return settings | {"data.digest": record["data"]["digest"][:12], "steps_planned": str(record["steps_planned"])}


def changed_settings(groups: Sequence[Hashable], settings: Sequence[dict[str, str]]) -> list[str]:
    """Return ``differing_in_group`` as texts, ``key=value, key=value``.

    The text is empty where all runs of a group agree. Runs of one group and one text differ only in seed.
    """
    differing = differing_in_group(groups, settings)
    return [", ".join(f"{key}={value}" for key, value in own.items()) for own in differing]


def differing_in_group(groups: Sequence[Hashable], settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return for each run the settings in which the runs of its group differ: dotted key -> value, or ``absent``.

    Args:
        groups: the group of each run.
        settings: ``settings_of`` each run.
    """
    members = defaultdict(list)
    for group, setting in zip(groups, settings, strict=True):
        members[group].append(setting)
    differing = {group: _differing(several) for group, several in members.items()}
    return [
        {key: setting.get(key, "absent") for key in differing[group]}
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
