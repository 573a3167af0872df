"""Data sources beyond the shipped ones, found in the source of ``ttt/data/`` without importing it."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ttt.data
from ttt.config.errors import UserError

SHIPPED = {"hub", "local", "pycode"}
DECORATOR = "register_source"


def added_sources() -> dict[str, Any]:
    """Return the registered sources (classes of ``ttt.data.sources.Source``) that are not shipped, by name.

    Only if there are any, the sources and torch are imported.

    Raises:
        UserError: a file registers a source in a way that cannot be read.
    """
    files = sorted(file for folder in ttt.data.__path__ for file in Path(folder).glob("*.py"))
    if {name for file in files for name in _registered_names(file)} <= SHIPPED:
        return {}
    sources = importlib.import_module("ttt.data.sources")
    return {name: source for name, source in sources.source_types().items() if name not in SHIPPED}


def _registered_names(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    if DECORATOR not in text:
        return
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: not Python ({error.msg})") from error
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == DECORATOR:
            arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "name")]
            if not (arguments and isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str)):
                raise UserError(
                    f'{file}:{node.lineno}: {DECORATOR}: the name must be a string literal, such as "folder"'
                )
            yield arguments[0].value
