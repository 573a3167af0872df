"""Ending a run on a signal without losing steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from torch import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""SLURM sends SIGUSR2 before a time limit, as submitit requests. SIGUSR1 is not used because NCCL may use it."""


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


class StopRequest(pl.Callback):
    """Ends a training after the current step when a signal arrives.

    A second SIGINT, from an impatient user, ends it at once. Other further signals are ignored, because SLURM sends
    several.

    Attributes:
        number: the signal on which all processes of the run have agreed; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Store signals that arrive in the block.

        Raises:
            Interrupted: at the end of the block, if a signal arrived.
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
        """Replace Lightning's handler of SIGTERM, which communicates with other processes at arbitrary times."""
        _handle(self._note)

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Return whether the run must end; all processes of a distributed run must call this together."""
        self.number = self._noted
        if trainer.world_size > 1:
            # On the CPU and without Lightning's barrier: on GPUs both would wait for the end of the step.
            noted = torch.tensor(self._noted)
            distributed.all_reduce(noted, distributed.ReduceOp.MAX)
            self.number = int(noted)
        return self.number > 0

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == self._noted == signal.SIGINT:
            raise by_signal(number)
        self._noted = number


def _interrupt(number: int, _: FrameType | None) -> None:
    raise by_signal(number)


def _handle(handler: Any) -> dict[int, Any]:
    """Install ``handler`` and return the former handlers."""
    return {number: signal.signal(number, handler) for number in SIGNALS}
