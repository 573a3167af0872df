"""Ending a preparation on a signal: one line, and nothing that the next start cannot use."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ttt.config.errors import InterruptedPreparationError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, the end of a job, and SLURM's warning before a time limit, as submitit requests it."""


class _Stopped(BaseException):
    """Signal ``number`` arrived. Derives from BaseException so that ``except Exception`` does not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable(data: str) -> Iterator[None]:
    """End the block when a signal arrives; in other threads than the main one, signals have their usual effect.

    Raises:
        InterruptedPreparationError: a signal arrived in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    except _Stopped as stopped:
        name = signal.Signals(stopped.number).name
        line = f"data={data}: the preparation was stopped by {name}; the same command resumes"
        raise InterruptedPreparationError(line, stopped.number) from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _stop(number: int, _: FrameType | None) -> None:
    raise _Stopped(number)
