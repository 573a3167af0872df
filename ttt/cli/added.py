"""Layers, backbones and data sources beyond the shipped ones, found in source files without importing them."""

import importlib
from typing import Any

import ttt.backbones
import ttt.data
import ttt.layers
from ttt.config.discover import names_in
from ttt.config.layers import SHIPPED
from ttt.config.schema import DataConfig
from ttt.config.sources import SOURCES

SHIPPED_BACKBONES = {"mamba", "own", "transformer"}
SHIPPED_SOURCES = {"hub", "local", "mqar", "pycode", "pyrepo", "tokens"}


def added_layers() -> dict[str, Any]:
    """Return name -> registered layer (``ttt.layers.registry.LayerType``) for layers that are not shipped.

    The layers and torch are imported only if there are any.

    Raises:
        UserError: a file that registers a layer in a way that cannot be read.
    """
    if names_in(ttt.layers.__path__, "register_layer") <= SHIPPED.keys():
        return {}
    registry = importlib.import_module("ttt.layers.registry")
    return {name: layer for name, layer in registry.layer_types().items() if name not in SHIPPED}


def added_backbones() -> dict[str, Any]:
    """Return the registered backbones (``ttt.backbones.registry.Backbone``) that are not shipped, by name.

    The backbones and torch are imported only if there are any.

    Raises:
        UserError: a file that registers a backbone in a way that cannot be read.
    """
    if names_in(ttt.backbones.__path__, "register_backbone") <= SHIPPED_BACKBONES:
        return {}
    registry = importlib.import_module("ttt.backbones.registry")
    return {name: backbone for name, backbone in registry.backbones().items() if name not in SHIPPED_BACKBONES}


def added_sources() -> dict[str, Any]:
    """Return name -> registered source (class of ``ttt.data.sources.Source``) for sources that are not shipped.

    The sources and torch are imported only if there are any.

    Raises:
        UserError: a file that registers a source in a way that cannot be read.
    """
    if names_in(ttt.data.__path__, "register_source") <= SHIPPED_SOURCES:
        return {}
    sources = importlib.import_module("ttt.data.sources")
    return {name: source for name, source in sources.source_types().items() if name not in SHIPPED_SOURCES}


def source_schemas() -> dict[str, type[DataConfig]]:
    """Return name -> schema of every source that has keys of its own, or is not shipped.

    Raises:
        UserError: as ``added_sources``.
    """
    return SOURCES | {name: source.schema for name, source in added_sources().items()}
