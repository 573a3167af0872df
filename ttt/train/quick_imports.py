"""Imports of Lightning without packages that no run needs: half of the time that a short run took to start."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

UNUSED = ("transformers", "matplotlib", "scipy")
"""Packages that torchmetrics, which Lightning imports, imports wherever they are installed. Only its plots and its
metrics of text and sound need them, and no run has one of these."""

COMPILER = "torch._dynamo"
"""The package of ``torch.compile``, which takes a second to import."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import Lightning, then what this context imports, without ``UNUSED`` and without garbage collections.

    The modules are exempt from later collections too, each of which would visit all their objects. Nothing is done if
    Lightning is imported already.
    """
    if "lightning.pytorch" in sys.modules:
        yield
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        with without_unused():
            _import_lightning()
            yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


@contextmanager
def without_unused() -> Iterator[None]:
    """Tell torchmetrics, if it is imported in this context, that ``UNUSED`` are not installed.

    It asks two functions of lightning-utilities, which answer as before when the context ends. torchmetrics remembers
    their answers: a text metric that is used later raises its error about a missing package.
    """
    from lightning_utilities.core import imports

    cache = imports.RequirementCache
    is_available, is_installed = cache.__bool__, imports.package_available

    def available(requirement: Any) -> bool:
        if (requirement.requirement or "").partition(">")[0] in UNUSED:
            requirement.available, requirement.message = False, "not imported by this program"
            return False
        return is_available(requirement)

    cache.__bool__ = available  # type: ignore[method-assign,assignment]
    imports.package_available = lambda name: name not in UNUSED and is_installed(name)  # type: ignore[assignment]
    try:
        yield
    finally:
        cache.__bool__, imports.package_available = is_available, is_installed  # type: ignore[method-assign]


def _import_lightning() -> None:
    try:
        with without_compiler():
            importlib.import_module("lightning.pytorch")
    except (ImportError, AttributeError):
        # A version of Lightning that imports more of the compiler.
        importlib.import_module("lightning.pytorch")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import Lightning in this context without ``COMPILER``, unless that is imported already.

    Lightning tells modules that are compiled as a whole by their class, and marks functions that must not be compiled.
    Runs never compile Lightning's part: ``trainer.compile`` compiles a model's blocks, and then imports the package.
    """
    if COMPILER in sys.modules:
        yield
        return
    importlib.import_module("torch")
    stand_in: Any = ModuleType(COMPILER)
    stand_in.OptimizedModule = type("OptimizedModule", (), {})
    stand_in.disable = lambda function, *_, **__: function
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[COMPILER]
