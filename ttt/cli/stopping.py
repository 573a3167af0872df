"""Ending a command that only reads a run on SIGTERM: one line and the exit code that shells expect."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ttt.cli.errors import stop
from ttt.config.signals import Stopped, stopped_by


@contextmanager
def one_line_on_sigterm(what: str) -> Iterator[None]:
    """End the process with a line about ``what`` and code 143 if SIGTERM arrives in the block, after its clean-up."""
    try:
        with stopped_by([signal.SIGTERM]):
            yield
    except Stopped as stopped:
        stop(f"{what} was stopped by SIGTERM; nothing of it is stored", 128 + stopped.number)
