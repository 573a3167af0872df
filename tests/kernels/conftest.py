"""Fixtures: one makes Triton's interpreter fast, one mends masks in its version 3.9, one fills new tensors with NaN."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle


@pytest.fixture(autouse=True, scope="session")
def prepare_once_per_launch() -> Iterator[None]:
    """Prepare ``triton.language`` once per launch instead of at each function call within a kernel."""
    prepared: set[InterpretedFunction] = set()
    run, prepare_and_call = InterpretedFunction.run, InterpretedFunction.__call__

    def launch(self: InterpretedFunction, *given: Any, **named: Any) -> None:
        prepared.clear()
        run(self, *given, **named)

    def call(self: InterpretedFunction, *given: Any, **named: Any) -> Any:
        if self in prepared:
            return self.rewrite()(*given, **named)
        prepared.add(self)
        return prepare_and_call(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", launch)
        patch.setattr(InterpretedFunction, "__call__", call)
        yield


@pytest.fixture(autouse=True, scope="session")
def comparisons_are_masks() -> Iterator[None]:
    """Give a scalar comparison that is spread over a tile the type of a mask.

    The interpreter gives it the type of the compared numbers, int32, and refuses such masks from Triton 3.9 on. Kernels
    that are compiled are not concerned.
    """
    spread = InterpreterBuilder.create_splat

    def create_splat(self: InterpreterBuilder, kind: Any, value: Any) -> Any:
        tile = spread(self, kind, value)
        return TensorHandle(tile.data.astype(bool), tl.int1) if kind.scalar == tl.int1 else tile

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_splat", create_splat)
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill new tensors with NaN, so that an element that a kernel does not write is NaN."""
    with monkeypatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, filled(getattr(owner, name)))
        yield


def filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``allocate`` with NaN in its tensors of floating point numbers."""

    def fill(*given: Any, **named: Any) -> Tensor:
        x = allocate(*given, **named)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    return fill
