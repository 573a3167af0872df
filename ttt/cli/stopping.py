"""Ending a command that only reads a run on SIGTERM: one line and the exit code that shells expect."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ttt.cli.errors import stop


class _Stopped(BaseException):
    """SIGTERM arrived. Derives from BaseException so that ``except Exception`` does not swallow it."""


@contextmanager
def one_line_on_sigterm(what: str) -> Iterator[None]:
    """End the process with a line about ``what`` and code 143 if SIGTERM arrives in the block, after its clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    except _Stopped:
        stop(f"{what} was stopped by SIGTERM; nothing of it is stored", 128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise _Stopped
