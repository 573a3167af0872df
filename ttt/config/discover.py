"""Discovery of the modules of a package, so that a new layer or figure needs only its file and no entry in a list."""

import importlib
import pkgutil
from types import ModuleType


def modules_of(package: str) -> list[ModuleType]:
    """Import every module of ``package`` once and return them sorted by name."""
    folder = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(folder))
    return [importlib.import_module(f"{package}.{name}") for name in names]
