"""A fixture that makes Triton's interpreter several times as fast."""

from collections.abc import Iterator
from typing import Any

import pytest
from triton.runtime.interpreter import InterpretedFunction


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
