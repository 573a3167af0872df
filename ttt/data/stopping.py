"""Ending a preparation on a signal: one line, and nothing that the next start cannot use."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ttt.config.errors import InterruptedPreparationError
from ttt.config.signals import Stopped, stopped_by

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, the end of a job, and SLURM's warning before a time limit, as submitit requests it."""


@contextmanager
def stoppable(data: str) -> Iterator[None]:
    """End the block when a signal arrives; in other threads than the main one, signals have their usual effect.

    Raises:
        InterruptedPreparationError: a signal arrived in the block.
    """
    try:
        with stopped_by(SIGNALS):
            yield
    except Stopped as stopped:
        name = signal.Signals(stopped.number).name
        line = f"data={data}: the preparation was stopped by {name}; the same command resumes"
        raise InterruptedPreparationError(line, stopped.number) from None
