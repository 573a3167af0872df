"""Sequence layers beyond the shipped ones, found in the source of ``ttt/layers/`` without importing it."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ttt.layers
from ttt.config.errors import UserError
from ttt.config.layers import SHIPPED

DECORATOR = "register_layer"


def added_layers() -> dict[str, Any]:
    """Return the registered layers (``ttt.layers.registry.LayerType``) that are not shipped, by name.

    Only if there are any, the layers and torch are imported.

    Raises:
        UserError: a file that registers a layer in a way that cannot be read.
    """
    files = sorted(Path(ttt.layers.__path__[0]).glob("*.py"))
    if {name for file in files for name in registered_names(file)} <= SHIPPED.keys():
        return {}
    registry = importlib.import_module("ttt.layers.registry")
    return {name: layer for name, layer in registry.layer_types().items() if name not in SHIPPED}


def registered_names(file: Path) -> list[str]:
    """Return the names under which a Python file registers layers.

    Raises:
        UserError: the file is not Python, a name is not a string literal, or ``register_layer`` is imported and no
            call of it was found.
    """
    source = file.read_text(encoding="utf-8")
    if DECORATOR not in source:
        return []
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: not Python ({error.msg})") from error
    names = [_name(call, file) for call in _calls(nodes)]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    if not names and any(imported.name == DECORATOR for node in imports for imported in node.names):
        raise UserError(f'{file}: imports {DECORATOR} and never calls it; write @{DECORATOR}("NAME", ...)')
    return names


def _calls(nodes: list[ast.AST]) -> Iterator[ast.Call]:
    """Yield the calls of ``register_layer(...)`` and ``module.register_layer(...)``."""
    for node in nodes:
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
            if name == DECORATOR:
                yield node


def _name(call: ast.Call, file: Path) -> str:
    """Return the first argument, or the one called ``name``."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    argument = next(iter([*call.args, *named]), None)
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    raise UserError(f'{file}:{call.lineno}: {DECORATOR}: the name must be a string literal, such as "ema"')
