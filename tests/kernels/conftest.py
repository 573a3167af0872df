"""Triton's interpreter, several times as fast."""

from collections.abc import Iterator

import pytest
from triton.runtime.interpreter import InterpretedFunction


@pytest.fixture(autouse=True, scope="session")
def nothing_is_patched_twice() -> Iterator[None]:
    """A kernel's launch prepares ``triton.language``, and then again every call of a function within the kernel does."""

    def call(self: InterpretedFunction, *given: object, **named: object) -> object:
        return self.rewrite()(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "__call__", call)
        yield
