"""The text of ``--help``: groups with their options from ``conf/``, keys with their meaning from the schema."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from ttt.cli.added import added_backbones, added_layers, added_sources
from ttt.cli.compose import groups
from ttt.cli.errors import by_number
from ttt.config.assets import assets
from ttt.config.errors import spelled
from ttt.config.text_table import WIDTH

WIDEST_NAME = 30


def describe_command(
    head: str, config_name: str, overrides: list[str], more_groups: tuple[str, ...], aliases: dict[str, str]
) -> str:
    """Return ``head``, the groups of a command with their options, and its keys with their values and meanings.

    Args:
        head: the first lines.
        config_name: a file of ``conf/``.
        overrides: overrides on the command line; the values are shown after applying them.
        more_groups: groups that are not keys of the schema, as on the command line: ``+ablation``.
        aliases: name on the command line -> key.

    Raises:
        HydraException, OmegaConfBaseException: an override that does not compose.
    """
    multirun = {"-m", "--multirun"} & set(overrides)
    chosen = [] if multirun else [override for override in overrides if "=" in override and override[0] != "-"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(assets() / "conf"), version_base="1.3"):
        composed = compose(config_name, chosen, return_hydra_config=True)
    choices = composed.hydra.runtime.choices
    own_groups = [key.name for key in _keys(composed) if key.name in groups()]
    parts = [head.rstrip()]
    if own_groups or more_groups:
        described = [describe_group(group, choices.get(group.lstrip("+"))) for group in (*own_groups, *more_groups)]
        parts += ["Groups and their options:", *described]
    names = {key: alias for alias, key in aliases.items()}
    return "\n\n".join([*parts, *_sections(composed, names)])


def describe_keys(config: DictConfig, prefix: str = "", names: dict[str, str] | None = None) -> str:
    """Return one line per key of a structured configuration, without its groups: value and meaning.

    Args:
        config: such as ``OmegaConf.structured(EvalConfig)``.
        prefix: prefix of the keys, such as ``model.``.
        names: key -> its name on the command line, where that differs.
    """
    lines = {}
    for field in _keys(config):
        key = f"{prefix}{field.name}"
        is_group_name = bool(prefix) and field.name == "name"
        if not (is_group_name or field.metadata.get("hidden") or _is_group(config, field.name)):
            name = (names or {}).get(key, key)
            lines[f"{name}={_value(config, field.name)}"] = _meaning(field.metadata)
    return columns(lines)


def columns(lines: dict[str, str], indent: str = "  ") -> str:
    """Return lines of names and explanations; the explanations are wrapped and aligned."""
    width = min(max(map(len, lines), default=0), WIDEST_NAME)
    below = " " * (len(indent) + width + 2)
    rows = []
    for name, text in lines.items():
        first = f"{indent}{name:<{width}}  "
        wrapped = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=below, break_on_hyphens=False)
        rows += wrapped or [first.rstrip()]
    return "\n".join(rows)


def describe_group(name: str, chosen: str | None = None) -> str:
    """Return the options of a group, each with the first comment of its file.

    Args:
        name: name of the group; ``+name`` if it is not part of every configuration.
        chosen: the selected option.
    """
    folder = assets() / "conf" / name.lstrip("+")
    options = {
        file.stem: comment(file) for file in sorted(folder.glob("*.yaml"), key=lambda file: by_number(file.stem))
    }
    added = {name: (kind.__doc__ or name).splitlines()[0] for name, kind in _added(folder.name).items()}
    options |= {name: line for name, line in added.items() if name not in options}
    return f"  {name}={chosen or ''}\n{columns(options, '    ')}"


def _added(group: str) -> dict[str, Any]:
    """Return the classes that are options of a group without a file in ``conf/``, by name."""
    if group == "model":
        return {name: layer.build for name, layer in added_layers().items()}
    if group == "backbone":
        return {name: backbone.block for name, backbone in added_backbones().items()}
    return added_sources() if group == "data" else {}


def comment(file: Path) -> str:
    """Return the first comment of a YAML file."""
    lines = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@package")), "")


def _sections(composed: DictConfig, names: dict[str, str]) -> Iterator[str]:
    """Yield the keys of the command, then those of each group and of the groups in it."""
    yield f"Keys:\n\n{describe_keys(composed, names=names)}"
    yield from _group_sections(composed, "", names)


def _group_sections(config: DictConfig, prefix: str, names: dict[str, str]) -> Iterator[str]:
    for field in _keys(config):
        if _is_group(config, field.name) and not field.metadata.get("hidden"):
            group, inside = config[field.name], f"{prefix}{field.name}."
            described, meaning = describe_keys(group, inside, names), field.metadata["help"].partition(";")[0]
            if described:
                yield f"{meaning[:1].upper()}{meaning[1:]}:\n\n{described}"
            yield from _group_sections(group, inside, names)


def _keys(config: DictConfig) -> tuple[Field[Any], ...]:
    """Return the keys of a structured configuration, as the fields of its class."""
    return fields(cast(Any, OmegaConf.get_type(config)))


def _is_group(config: DictConfig, name: str) -> bool:
    node = None if OmegaConf.is_missing(config, name) else config[name]
    return OmegaConf.is_dict(node) and OmegaConf.get_type(node) is not dict


def _value(config: DictConfig, name: str) -> str:
    """Return a value as on the command line; ``...`` if it must be given."""
    return "..." if OmegaConf.is_missing(config, name) else _text(config[name])


def _text(value: Any) -> str:
    if OmegaConf.is_list(value):
        return f"[{','.join(map(_text, value))}]"
    if OmegaConf.is_dict(value):
        return f"{{{','.join(f'{key}:{_text(element)}' for key, element in value.items())}}}"
    return spelled(value)


def _meaning(metadata: Mapping[str, Any]) -> str:
    """Return the meaning of a key, and its choices unless the meaning names them."""
    meaning, choices = metadata.get("help", ""), [str(choice) for choice in metadata.get("choices", ())]
    return meaning if all(choice in meaning for choice in choices) else f"{meaning}: {', '.join(choices)}"
