"""Ending a run on a signal without losing steps, and requeueing the job of a cluster."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

from ttt.config.errors import InterruptedRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""submitit has SLURM send SIGUSR2 before a time limit. SIGUSR1 is not used because NCCL may use it."""


class Interrupted(BaseException):
    """Signal ``number`` ends the run. Derives from BaseException so that ``except Exception`` does not swallow it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def by_signal(number: int) -> Interrupted:
    """Return the exception for a signal."""
    return Interrupted(f"stopped by {signal.Signals(number).name}", number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise ``Interrupted`` in the main thread when a signal arrives."""
    former = _handle(_interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def requeueing() -> Iterator[None]:
    """Let the handler of SIGUSR2, if there is one, requeue the job after a signal has ended the run.

    In submitit's jobs that handler saves what the job needs to start again and ends the process. It is called when
    everything is written and the folder is unlocked. A preempted job gets SIGTERM, as a cancelled one does; SLURM knows
    which it was, and only a preempted job is requeued.
    """
    owner = signal.getsignal(signal.SIGUSR2)
    try:
        yield
    except InterruptedRunError as stopped:
        if callable(owner) and (stopped.number == signal.SIGUSR2 or (stopped.number == signal.SIGTERM and preempted())):
            owner(signal.SIGUSR2, None)
        raise


def preempted() -> bool:
    """Return whether SLURM preempts this job and grants it a grace time, in which it counts as running."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "JobState=RUNNING" in shown.stdout and re.search(r"PreemptTime=\d", shown.stdout) is not None


class StopRequest(pl.Callback):
    """Notes signals while a run trains, and ends it after the current step.

    A second SIGINT ends it at once, for a user at a terminal who does not want to wait. Any other further signal is
    ignored, because SLURM sends several.

    Attributes:
        number: the signal that any process of the run received, once all know of it; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the signals.

        Raises:
            Interrupted: a signal arrived. After the last step it has had no effect yet.
        """
        former = _handle(self._note)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        if self.number or self._noted:
            raise by_signal(self.number or self._noted)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Replace Lightning's handler of SIGTERM, which would communicate with other processes at any moment."""
        _handle(self._note)

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Return whether the run must end; all processes of a distributed run call it together and get one answer."""
        noted = torch.tensor(self._noted, device=trainer.strategy.root_device)
        self.number = int(trainer.strategy.reduce(noted, reduce_op="max"))
        return self.number > 0

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == self._noted == signal.SIGINT:
            raise by_signal(number)
        self._noted = number


def _interrupt(number: int, _: FrameType | None) -> None:
    raise by_signal(number)


def _handle(handler: Any) -> dict[int, Any]:
    """Install ``handler`` and return the former ones."""
    return {number: signal.signal(number, handler) for number in SIGNALS}
