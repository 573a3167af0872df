"""Conversion of configurations to plain containers and back."""

from collections.abc import Hashable
from dataclasses import Field, asdict, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from ttt.config.keys import RENAMED
from ttt.config.schema import DataConfig, LayerConfig, Resolved, TrainConfig

C = TypeVar("C")


def from_plain(plain: Resolved, layer_schema: type[LayerConfig], data_schema: type[DataConfig]) -> TrainConfig:
    """Return a configuration from plain containers, with these schemas of model and data.

    Keys with the names of an earlier version are translated, unknown keys are ignored.
    """
    config = build_group(TrainConfig, {RENAMED.get(key, key): value for key, value in plain.items()})
    config.model = build_group(layer_schema, plain["model"])
    config.data = build_group(data_schema, plain["data"])
    return config


def build_group(schema: type[C], plain: Resolved) -> C:
    """Return the configuration of a group from plain containers; unknown keys are ignored."""
    hints = get_type_hints(schema)
    values: dict[str, Any] = {}
    for field in fields(cast(Any, schema)):
        if field.name in plain:
            value, kind = plain[field.name], hints[field.name]
            values[field.name] = build_group(cast(type, kind), value) if is_dataclass(kind) else _present(field, value)
    return schema(**values)


def present_values(schema: type[Any], plain: Resolved) -> Resolved:
    """Return the plain values of a group with values of an earlier version translated."""
    known = {field.name: field for field in fields(schema)}
    return {key: _present(known[key], value) if key in known else value for key, value in plain.items()}


def _present(field: "Field[Any]", value: Any) -> Any:
    formerly = field.metadata.get("formerly", {})
    return formerly.get(value, value) if isinstance(value, Hashable) else value


def to_plain(config: TrainConfig) -> Resolved:
    """Return plain containers that YAML and JSON restore unchanged: tuples become lists."""
    plain = asdict(config)
    plain["recipe"]["betas"] = list(plain["recipe"]["betas"])
    return plain
