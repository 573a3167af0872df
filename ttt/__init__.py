"""Reproduction suite for "Learning to (Learn at Test Time)" (arXiv 2407.04620).

The names below are the Python interface; README.md shows them in use. Each is imported when it is first used, so that
``import ttt`` does not import torch. An unsupported Python reads this file first, and is named.
"""

from importlib import import_module

from ttt.config.supported import require_supported_python, unsupported_torch

require_supported_python()

TYPE_CHECKING = False  # typing's, which Python 2.7 lacks; type checkers know the name
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


def __getattr__(name):
    # type: (str) -> object
    if name not in _MODULES:
        raise AttributeError("module {!r} has no attribute {!r}".format(__name__, name))
    problem = unsupported_torch()
    if problem:
        raise ImportError(problem)
    found = getattr(import_module("ttt.api." + _MODULES[name]), name)
    globals()[name] = found  # asked for once
    return found


def __dir__():
    # type: () -> list[str]
    return sorted(set(globals()).union(__all__))
