"""Discovery of the modules of a package, so that a new layer or figure needs only its file and no entry in a list."""

import ast
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

from ttt.config.errors import UserError


def modules_of(package: str) -> list[ModuleType]:
    """Import every module of ``package`` once and return them sorted by name."""
    return _modules(package, tuple(importlib.import_module(package).__path__))


@cache
def _modules(package: str, folders: tuple[str, ...]) -> list[ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(folders))
    return [importlib.import_module(f"{package}.{name}") for name in names]


def import_registering(package: str, decorator: str, name: str) -> None:
    """Import the module of ``package`` that registers ``name`` with ``@decorator(name, ...)``, if there is one.

    The other modules are not imported, because some need torch.

    Raises:
        UserError: a file that registers a name in a way that cannot be read.
    """
    for folder in importlib.import_module(package).__path__:
        for file in sorted(Path(folder).glob("*.py")):
            if name in registered_names(file, decorator):
                importlib.import_module(f"{package}.{file.stem}")


def names_in(folders: Iterable[str], decorator: str) -> set[str]:
    """Return the names that the Python files in the folders register with ``@decorator(name, ...)``.

    The files are read and not imported, so that torch is not imported either.

    Raises:
        UserError: a file that registers a name in a way that cannot be read.
    """
    files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
    return {name for file in files for name in registered_names(file, decorator)}


def registered_names(file: Path, decorator: str) -> list[str]:
    """Return the names that a Python file registers with ``@decorator(name, ...)``.

    Raises:
        UserError: the file is not Python, a name is not a string literal, or the decorator is imported and no call of
            it was found.
    """
    source = file.read_text(encoding="utf-8")
    return list(_names_in_source(file, source, decorator)) if decorator in source else []


@lru_cache(maxsize=256)
def _names_in_source(file: Path, source: str, decorator: str) -> tuple[str, ...]:
    """Return the names; a sweep asks for those of the same files for each of its runs."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: not Python ({error.msg})") from error
    calls = [node for node in nodes if isinstance(node, ast.Call) and _last_name(node.func) == decorator]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    if decorator in imported and not calls:
        raise UserError(f'{file}: imports {decorator} and never calls it; write @{decorator}("NAME", ...)')
    return tuple(_name(call, f"{file}:{call.lineno}: {decorator}") for call in calls)


def _last_name(node: ast.expr) -> str | None:
    """Return ``name`` of ``name`` and of ``module.name``."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def _name(call: ast.Call, where: str) -> str:
    """Return the first argument, or the one called ``name``."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    argument = next(iter([*call.args, *named]), None)
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    raise UserError(f'{where}: the name must be a string literal, such as "ema"')
