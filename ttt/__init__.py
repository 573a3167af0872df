"""Reproduction suite for "Learning to (Learn at Test Time)" (arXiv 2407.04620).

The names below are the Python interface; README.md shows them in use. Each is imported when it is first used, so that
``import ttt`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.api.inner_loss import inner_loss
    from ttt.api.layers import TTTMLP, TTTLinear, build_layer
    from ttt.api.load import load
    from ttt.api.runs import load_runs

__all__ = ["TTTMLP", "TTTLinear", "build_layer", "inner_loss", "load", "load_runs"]

_MODULES = {
    "TTTLinear": "layers",
    "TTTMLP": "layers",
    "build_layer": "layers",
    "inner_loss": "inner_loss",
    "load": "load",
    "load_runs": "runs",
}
"""Name -> module of ``ttt.api`` that defines it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ttt.config.supported import unsupported_python, unsupported_torch

    if problem := unsupported_python() or unsupported_torch():
        raise ImportError(problem)
    globals()[name] = getattr(import_module(f"ttt.api.{_MODULES[name]}"), name)  # asked for once
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
