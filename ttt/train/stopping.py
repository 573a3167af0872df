"""Ending a run when a signal asks for it, with nothing lost; and what a cluster's job does then."""

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
"""SIGUSR2 is what submitit has SLURM send before a time limit. SIGUSR1 is left alone: NCCL may use it."""


class Interrupted(BaseException):
    """The run was asked to end by signal ``number``. No ``Exception``, so that nothing takes it for one to handle."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def by_signal(number: int) -> Interrupted:
    """The exception for a signal."""
    return Interrupted(f"stopped by {signal.Signals(number).name}", number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """The signals raise ``Interrupted`` in the main thread."""
    former = _handle(_interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def requeueing() -> Iterator[None]:
    """Lets the owner of SIGUSR2, if there is one, put the job back into its queue after a signal has ended the run.

    submitit owns it in the jobs it starts: its handler saves what the job needs to start again, and ends the process.
    It is called when everything is written, and the folder let go. A preempted job gets SIGTERM like one that was
    cancelled; SLURM tells them apart, and only the first starts again.
    """
    owner = signal.getsignal(signal.SIGUSR2)
    try:
        yield
    except InterruptedRunError as stopped:
        if callable(owner) and (stopped.number == signal.SIGUSR2 or (stopped.number == signal.SIGTERM and preempted())):
            owner(signal.SIGUSR2, None)
        raise


def preempted() -> bool:
    """Whether SLURM wants this job's place for another, and gives it a grace time, in which it counts as running."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "JobState=RUNNING" in shown.stdout and re.search(r"PreemptTime=\d", shown.stdout) is not None


class StopRequest(pl.Callback):
    """While a run trains, the signals are noted, and it ends after the step under way.

    A second SIGINT ends it at once, for somebody at a terminal who will not wait. Any other that follows, as SLURM
    sends several, changes nothing on the way out.

    Attributes:
        number: the signal that came to any process of the run, once all have agreed on it; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the signals.

        Raises:
            Interrupted: one came. After the last step it has changed nothing so far.
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
        """Takes SIGTERM back from Lightning, whose handler speaks to other processes at any moment."""
        _handle(self._note)

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether the run is to end; all processes of a distributed run ask together, and get the same answer."""
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
    """Installs ``handler`` and returns the former ones."""
    return {number: signal.signal(number, handler) for number in SIGNALS}
