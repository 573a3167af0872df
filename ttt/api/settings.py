"""Settings of a layer from keyword arguments, mappings and configuration files, checked against its schema."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ttt.backbones.registry import backbones
from ttt.cli.errors import describe
from ttt.cli.resolvers import register_resolvers
from ttt.config.assets import assets
from ttt.config.errors import UserError, bad_value, first_line
from ttt.config.plain import present_values
from ttt.config.plan import check_heads
from ttt.config.schema import KernelConfig, LayerConfig, Resolved
from ttt.layers.registry import LayerSpec, layer_type, layer_types

SIZES = ("width", "heads", "init_std")
"""Keys of a size that a layer is built from."""


def read_settings(source: str | PathLike[str] | Mapping[str, Any]) -> tuple[Resolved, Resolved, bool]:
    """Return the keys of a layer, the keys of its size, and whether its backbone is one with ``conv_gate``.

    Args:
        source: a layer's name, a YAML file, or a mapping with the content of a file or of its ``model`` section.

    Raises:
        UserError: a file that cannot be read, or a source of another form.
        OmegaConfBaseException: a reference in it that cannot be resolved.
    """
    if isinstance(source, str) and source in layer_types():
        return {"name": source}, {}, False
    config = source if isinstance(source, DictConfig) else None
    if config is None:
        config = OmegaConf.create(dict(source)) if isinstance(source, Mapping) else _read(Path(source).expanduser())
    model = config.get("model", config)
    if not isinstance(model, DictConfig) or "name" not in model:
        where = "the mapping" if isinstance(source, Mapping) else source
        raise UserError(f"{where}: has no model.name; it names the layer, one of {', '.join(layer_types())}")
    size, backbone = (_plain(config.get(group) or {}) for group in ("size", "backbone"))
    # Of a run's configuration the backbone decides which projections the layer has.
    name = backbone.get("name")
    return (
        _resolved(model),
        {key: size[key] for key in SIZES if key in size},
        name in backbones() and backbones()[name].conv_gate,
    )


def layer_config(settings: Resolved) -> LayerConfig:
    """Return the configuration of the layer ``settings["name"]``, with the values of ``model=NAME`` for other keys.

    Raises:
        UserError: no such layer.
        OmegaConfBaseException: an unknown or missing key, or a value of another type.
    """
    name = str(settings["name"])
    schema = layer_type(name).schema
    typed = OmegaConf.create({"model": OmegaConf.structured(schema)})
    merged = OmegaConf.merge(typed, {"model": _standard(name)}, {"model": present_values(schema, settings)})
    return cast(dict[str, LayerConfig], OmegaConf.to_object(merged))["model"]


def _standard(name: str) -> DictConfig:
    """Return the settings of ``model=NAME`` that are not defaults, with references to other settings of the layer."""
    register_resolvers()
    file = assets() / "conf" / "model" / f"{name}.yaml"
    return _read(file)["model"] if file.is_file() else OmegaConf.create({})


def _resolved(model: DictConfig) -> Resolved:
    """Return the settings of a layer as plain values; a reference may name a setting that only the layer's type has."""
    defaults = OmegaConf.to_container(OmegaConf.structured(layer_type(str(model["name"])).schema))
    whole = OmegaConf.merge({"model": defaults}, {"model": _standard(model["name"])}, {"model": model})
    values = _plain(cast(DictConfig, whole))["model"]
    return {str(key): values[key] for key in model}


def layer_spec(size: Resolved, kernel: str, conv_gate: bool) -> LayerSpec:
    """Return the other arguments of a layer.

    Raises:
        UserError: the width or the number of heads is missing, not a positive whole number, or they do not fit.
    """
    for key in ("width", "heads"):
        value = size.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad_value(key, value, "give a whole number of at least 1")
    check_heads(size["width"], size["heads"])
    return LayerSpec(**size, conv_gate=conv_gate, kernel=KernelConfig(kernel))


def _read(path: Path) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        names = ", ".join(layer_types())
        reason = error.strerror or first_line(error)
        raise UserError(f"{path}: cannot be read ({reason}); give a YAML file, or one of {names}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: not YAML ({first_line(error)}); give a run's config.yaml") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"{path}: must map keys to values, as a run's config.yaml does")
    return content


def _plain(content: Mapping[str, Any]) -> Resolved:
    """Return plain containers with every reference between keys resolved.

    Raises:
        UserError: a reference to a key that the content lacks.
    """
    config = content if isinstance(content, DictConfig) else OmegaConf.create(dict(content))
    try:
        return cast(Resolved, OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(f"{describe(error)}; write its value") from None
