"""The name of a run's folder: its id, with the settings that differ from the options in ``conf/`` in short words.

The id alone identifies a run. The words are for readers, so that they may change from version to version: folders are
found by their ids (``ttt.results.folders``).
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal
from functools import cache
from pathlib import PurePosixPath
from typing import Any, cast

import yaml

from ttt.config.assets import assets
from ttt.config.identity import WITHOUT_INFLUENCE, run_id
from ttt.config.plain import to_plain
from ttt.config.schema import Resolved, TrainConfig

LONGEST_WORDS = 30
"""Characters of all words together; further settings are counted."""

LONGEST_TEXT = 16
"""Characters of a value that is a text."""

GROUPS = ("model", "size", "backbone", "kernel", "recipe", "data")

IN_THE_ID = ("model", "size", "backbone", "data")
"""Groups whose option is named in the id."""

WITHOUT_WORDS = {
    *WITHOUT_INFLUENCE,
    ("data", "eval_tokens"),
    ("data", "length"),
    ("size", "match"),
    ("size", "match_flops"),
    ("recipe", "imported"),
}
"""Group and key of settings that no reader looks for in a name."""

SHORT = {"mini_batch_size": "b", "eta_base": "eta", "learning_rate": "lr", "final_learning_rate": "final_lr"}
"""Key -> the paper's symbol, or an abbreviation."""

REFERENCE = re.compile(r"\$\{(?:share:(?P<part>[\d.]+),\$\{)?(?P<beside>\.?)(?P<key>[\w.]+)\}+")
"""A value in ``conf/`` that is another key's value, or a share of it."""


def folder_name(config: TrainConfig) -> str:
    """Return the name of a new folder: ``ttt_linear-mamba-w64-512-pycode-b8-eta0.3-seed0-1a2b3c4d``."""
    names, seed, digest = run_id(config).rsplit("-", 2)
    return "-".join([names, *_that_fit(list(_words(config))), seed, digest])


def share(part: float, whole: float) -> float:
    """Return ``part`` times ``whole`` as one writes it, for ``${share:0.1,${.key}}`` in ``conf/``.

    A tenth of 0.1 is 0.01, not 0.010000000000000002: the ids of runs are made from such values. A share of a whole
    number, such as a quarter of the steps, is one if it can be.
    """
    product = Decimal(str(part)) * Decimal(str(whole))
    return int(product) if isinstance(whole, int) and product == int(product) else float(product)


def _that_fit(words: list[str]) -> list[str]:
    """Return as many of the words as stay readable, and the number of the others: ``3more``."""
    if len("-".join(words)) <= LONGEST_WORDS:
        return words
    fit = next(number for number in range(len(words))[::-1] if len("-".join(words[:number])) <= LONGEST_WORDS)
    return [*words[:fit], f"{len(words) - fit}more"]


def _words(config: TrainConfig) -> Iterator[str]:
    """Yield a word for each setting that differs from the options of the groups, in the order of the schema."""
    plain = to_plain(config)
    for group in GROUPS:
        node, option = getattr(config, group), str(plain[group]["name"])
        usual = _merged(asdict(type(node)()), _option(group, option))
        if group not in IN_THE_ID and option != _usual_options()[group]:
            yield option if group == "recipe" else f"{group}_{option}"
        own = {key: value for key, value in plain[group].items() if (group, key) not in WITHOUT_WORDS}
        yield from _departures(own, usual, plain)
    if config.parent.run_id:
        yield f"from_{config.parent.run_id.rpartition('-')[2]}"


def _departures(values: Resolved, usual: Resolved, config: Resolved, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        default = _resolved(usual.get(key), values, config)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _departures(value, default, config, f"{key}.")
            continue
        if isinstance(value, float) and isinstance(default, str):
            default = float(default)  # PyYAML reads 1e-5 as a text.
        # The steps of a recipe that has 0 follow from its parent's.
        follows = key == "name" or (key == "steps" and not default)
        if not follows and value != (list(default) if isinstance(default, tuple) else default):
            yield _word(prefix + SHORT.get(key, key), value)


def _resolved(default: Any, beside: Resolved, config: Resolved) -> Any:
    """Return a default of ``conf/``: where it is a reference, what it refers to in the run's own configuration."""
    reference = REFERENCE.fullmatch(default) if isinstance(default, str) else None
    if reference is None:
        return default
    value: Any = beside if reference["beside"] else config
    for key in reference["key"].split("."):
        value = value[key]
    return share(float(reference["part"]), value) if reference["part"] else value


def _word(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    if isinstance(value, int | float):
        return f"{key}{value:.6g}"
    if isinstance(value, list):
        return f"{key}_{_text('+'.join(map(str, value)))}"
    return f"{key}_{_text(PurePosixPath(str(value)).name)}" if value is not None else f"no_{key}"


def _text(value: str) -> str:
    return re.sub(r"[^\w.+]", "_", value, flags=re.ASCII)[:LONGEST_TEXT]


@cache
def _option(group: str, name: str) -> Resolved:
    """Return the values of an option in ``conf/``; those of an added layer are its schema's, of a source local's."""
    path = assets() / "conf" / group / f"{name}.yaml"
    if not path.is_file():
        return _option("data", "local") if group == "data" else {}
    content = cast(Resolved, yaml.safe_load(path.read_text(encoding="utf-8")))
    values: Resolved = {}
    for base in content.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            values = _merged(values, _option(group, base))
    return _merged(values, content.get(group, content))


def _merged(values: Resolved, changes: Resolved) -> Resolved:
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


@cache
def _usual_options() -> dict[str, str]:
    """Return group -> option of ``conf/train.yaml``."""
    content = yaml.safe_load((assets() / "conf" / "train.yaml").read_text(encoding="utf-8"))
    return {
        group: option for entry in content["defaults"] if isinstance(entry, dict) for group, option in entry.items()
    }
