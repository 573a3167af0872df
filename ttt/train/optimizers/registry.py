"""Optimizers by name. To add one, add a file to this folder that uses ``@register_optimizer``. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ttt.config.discover import modules_of, names_in
from ttt.config.errors import bad_value
from ttt.config.schema import RecipeConfig
from ttt.train import optimizers

if TYPE_CHECKING:
    from torch.optim import Optimizer

    Build = Callable[[list[dict[str, Any]], RecipeConfig], Optimizer]

_OPTIMIZERS: dict[str, Build] = {}
B = TypeVar("B", bound="Build")


def register_optimizer(name: str) -> Callable[[B], B]:
    """Register a function for ``recipe.optimizer=name``.

    ``function(groups, recipe)`` returns an optimizer at the peak learning rate. ``groups`` are torch's parameter
    groups, with their weight decay: parameters that decay and parameters that do not.
    """

    def register(build: B) -> B:
        _OPTIMIZERS[name] = build
        return build

    return register


def check_optimizer(recipe: RecipeConfig) -> None:
    """Check that the recipe's optimizer is registered; the files of this folder are read and not imported.

    Raises:
        UserError: no optimizer has this name.
    """
    names = names_in(optimizers.__path__, "register_optimizer")
    if recipe.optimizer not in names:
        raise bad_value("recipe.optimizer", recipe.optimizer, f"choose one of {', '.join(sorted(names))}")


def build_optimizer(groups: list[dict[str, Any]], recipe: RecipeConfig) -> Optimizer:
    """Return the recipe's optimizer of the parameter groups.

    Raises:
        UserError: no optimizer has this name.
    """
    check_optimizer(recipe)
    modules_of(__package__)
    return _OPTIMIZERS[recipe.optimizer](groups, recipe)
