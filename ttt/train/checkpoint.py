"""Saving checkpoints. A run that is killed loses at most the steps since the last one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ttt.config.errors import UserError
from ttt.results.atomic import replacing
from ttt.results.checkpoints import checkpoint_path, checkpoint_step, checkpoints, remove_checkpoint, write_digest
from ttt.results.run_record import RunRecord
from ttt.train.callbacks import Metrics, OnOptimizerStep, checkpoint_due
from ttt.train.module import TrainingModule
from ttt.train.stopping import Interrupted, StopRequest

KEPT = 2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, renames it, and then writes its digest.

    Attributes:
        failure: the error of a file that could not be written; nothing is saved after it. It is not raised at once,
            because the other processes of a distributed run would wait for this one.
    """

    failure: UserError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write ``checkpoint`` to ``path``."""
        if self.failure is None:
            with self.deferring():
                save_whole(checkpoint, Path(path))

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Store a ``UserError`` in ``failure`` instead of raising it."""
        try:
            yield
        except UserError as error:
            self.failure = error


def save_whole(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in torch's format, and then its digest.

    Raises:
        UserError: the file cannot be written; nothing of it remains.
    """
    try:
        with replacing(path) as file:
            writer = HashingWriter(file)
            writer.save(checkpoint)
        write_digest(path, writer.sha256.hexdigest())
    except UserError:
        remove_checkpoint(path)
        raise


class HashingWriter:
    """A file that is hashed while it is written, so that reading errors of the disk cannot change its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self._failure: OSError | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Write ``checkpoint`` in torch's format.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            torch.save(checkpoint, cast(BinaryIO, self))
        except RuntimeError:
            # After a failed write, torch also fails to close its archive and reports that error instead.
            if self._failure is not None:
                raise self._failure from None
            raise

    def write(self, data: bytes) -> int:
        """Append ``data``."""
        try:
            self.sha256.update(data)
            return self.file.write(data)
        except OSError as error:
            self._failure = error
            raise

    def flush(self) -> None:
        """Flush the file; torch calls this."""
        self.file.flush()


class SaveCheckpoints(OnOptimizerStep):
    """Saves every ``every`` optimizer steps (0: never), after the last one and when the run must stop.

    The newest two checkpoints are kept, and those of every ``keep_every`` steps (0: none), which are saved too. Metrics
    are written before the checkpoint and the record after it, so that a run killed in between lacks no row and its
    record never names a missing checkpoint.

    Args:
        record: the run's record.
        metrics: has the run's metrics, and checks the losses.
        every: optimizer steps between two checkpoints.
        keep_every: optimizer steps between two checkpoints that are kept.
        stop: requests to end the training after the current step.

    Attributes:
        files: the trainer's plugin that writes the checkpoints.
    """

    def __init__(self, record: RunRecord, metrics: Metrics, every: int, keep_every: int, stop: StopRequest) -> None:
        super().__init__()
        self.record, self.metrics, self.every, self.keep_every, self.stop = record, metrics, every, keep_every, stop
        self.files = AtomicCheckpointIO()

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Record the step, and save if a checkpoint is due.

        Raises:
            DivergedError: a loss up to this step is not finite.
        """
        self.record.step(step)
        stop = self.stop.agreed(trainer)
        due = checkpoint_due(step, module.plan.steps, self.every)
        if stop or due or self._is_kept(step):
            # Nothing is saved after a loss that is not finite.
            self.metrics.write(trainer, module, step)
            self._save(trainer, step)
        trainer.should_stop = trainer.should_stop or stop

    def _is_kept(self, step: int) -> bool:
        return self.keep_every > 0 and step % self.keep_every == 0

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        folder = self.record.folder.checkpoints
        if trainer.is_global_zero:
            with self.files.deferring():
                self.record.require_folder()
                self.metrics.metrics.write()
        path = checkpoint_path(folder, step)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and self.files.failure is None:
            with self.files.deferring():
                self.record.saved(path.name)
                for old in checkpoints(folder)[:-KEPT]:
                    if not self._is_kept(checkpoint_step(old)):
                        remove_checkpoint(old)
        if trainer.strategy.reduce_boolean_decision(self.files.failure is not None, all=False):
            raise self.files.failure or Interrupted("stopped by the first process", 0)
