"""Conversion of configurations to plain containers and back."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

from ttt.config.keys import RENAMED
from ttt.config.schema import DataConfig, LayerConfig, Resolved, TrainConfig

C = TypeVar("C")


def from_plain(
    plain: Resolved, layer_schema: type[LayerConfig], data_schema: type[DataConfig] = DataConfig
) -> TrainConfig:
    """Return a configuration from plain containers, with these schemas of model and data.

    Keys with the names of an earlier version are translated, unknown keys are ignored.
    """
    config = _build(TrainConfig, {RENAMED.get(key, key): value for key, value in plain.items()})
    config.model = _build(layer_schema, plain["model"])
    config.data = _build(data_schema, plain["data"])
    return config


def _build(schema: type[C], plain: Resolved) -> C:
    hints = get_type_hints(schema)
    values: dict[str, Any] = {}
    for field in fields(cast(Any, schema)):
        if field.name in plain:
            value, kind = plain[field.name], hints[field.name]
            values[field.name] = _build(cast(type, kind), value) if is_dataclass(kind) else value
    return schema(**values)


def to_plain(config: TrainConfig) -> Resolved:
    """Return plain containers that YAML and JSON restore unchanged: tuples become lists."""
    plain = asdict(config)
    plain["recipe"]["betas"] = list(plain["recipe"]["betas"])
    return plain
