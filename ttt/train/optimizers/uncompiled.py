"""Optimizers of torch that do not import torch.compile's package, which would take every run a second."""

import inspect
from functools import cache
from typing import TypeVar

import torch
from torch.optim import Optimizer

T = TypeVar("T", bound=Optimizer)

HIDDEN = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods that torch hides from torch.compile."""


@cache
def uncompiled(optimizer: type[T]) -> type[T]:
    """Return a class like one of ``torch.optim``, whose methods torch.compile does not know; it computes the same.

    Torch wraps ``step`` and the methods of ``HIDDEN`` for steps inside a compiled function, and each wrapper imports
    torch.compile's package. ``trainer.compile`` compiles a model's blocks, never a step.
    """
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in HIDDEN}
    # What remains of the wrapper of ``step``: only the rarely used ``differentiable=True`` needs gradients in a step.
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})
