"""Ending a run when a signal asks for it, with nothing lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was asked to end. Not an ``Exception``, so that nothing mistakes it for an error to handle."""


def by_signal(number: int) -> Interrupted:
    """The exception for a signal."""
    return Interrupted(f"stopped by {signal.Signals(number).name}")


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """SIGINT and SIGTERM raise ``Interrupted`` in the main thread."""
    former = _handle(_interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class StopRequest(pl.Callback):
    """While steps are taken, SIGINT and SIGTERM are noted, and the run ends after the step under way.

    A second SIGINT ends it at once, for somebody at a terminal who will not wait. SIGUSR1 is left to SLURM.

    Attributes:
        number: the signal that came to any process of the run, once all have agreed on it; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Takes the signals from Lightning, whose handler of SIGTERM speaks to other processes at any moment.

        Lightning puts back what was before when the training ends.
        """
        _handle(self._note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
        """Leaves nothing for a later step to do: from here on a signal ends the run at once."""
        _handle(_interrupt)

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
