"""Layers and data sources beyond the shipped ones, found in source files without importing them."""

import ast
import importlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import ttt.data
import ttt.layers
from ttt.config.errors import UserError
from ttt.config.layers import SHIPPED

SHIPPED_SOURCES = {"hub", "local", "pycode"}


def added_layers() -> dict[str, Any]:
    """Return name -> registered layer (``ttt.layers.registry.LayerType``) for layers that are not shipped.

    The layers and torch are imported only if there are any.

    Raises:
        UserError: a file that registers a layer in a way that cannot be read.
    """
    if not _adds_names(ttt.layers.__path__, "register_layer", SHIPPED):
        return {}
    registry = importlib.import_module("ttt.layers.registry")
    return {name: layer for name, layer in registry.layer_types().items() if name not in SHIPPED}


def added_sources() -> dict[str, Any]:
    """Return name -> registered source (class of ``ttt.data.sources.Source``) for sources that are not shipped.

    The sources and torch are imported only if there are any.

    Raises:
        UserError: a file that registers a source in a way that cannot be read.
    """
    if not _adds_names(ttt.data.__path__, "register_source", SHIPPED_SOURCES):
        return {}
    sources = importlib.import_module("ttt.data.sources")
    return {name: source for name, source in sources.source_types().items() if name not in SHIPPED_SOURCES}


def _adds_names(folders: Iterable[str], decorator: str, shipped: Collection[str]) -> bool:
    """Return whether a file of the folders registers a name that is not shipped; every file is read."""
    files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
    return not {name for file in files for name in registered_names(file, decorator)} <= set(shipped)


def registered_names(file: Path, decorator: str) -> list[str]:
    """Return the names that a Python file registers with ``@decorator(name, ...)``.

    Raises:
        UserError: the file is not Python, a name is not a string literal, or the decorator is imported but never
            called.
    """
    source = file.read_text(encoding="utf-8")
    if decorator not in source:
        return []
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: not Python ({error.msg})") from error
    calls = [node for node in nodes if isinstance(node, ast.Call) and _last_name(node.func) == decorator]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    if decorator in imported and not calls:
        raise UserError(f'{file}: imports {decorator} and never calls it; write @{decorator}("NAME", ...)')
    return [_name(call, f"{file}:{call.lineno}: {decorator}") for call in calls]


def _last_name(node: ast.expr) -> str | None:
    """Return ``name`` of ``name`` and of ``module.name``."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def _name(call: ast.Call, where: str) -> str:
    """Return the first argument, or the argument ``name=``."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    argument = next(iter([*call.args, *named]), None)
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    raise UserError(f'{where}: the name must be a string literal, such as "ema"')
