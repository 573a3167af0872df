"""Signals that end a block of code by an exception, so that the block cleans up."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """Signal ``number`` arrived. Derives from BaseException so that ``except Exception`` does not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopped_by(numbers: Sequence[int]) -> Iterator[None]:
    """End the block when one of these signals arrives; only the main thread can receive them.

    Raises:
        Stopped: a signal arrived in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)
