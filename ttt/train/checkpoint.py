"""Writing checkpoints, so that a run loses at most what it did since the last one."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ttt.config.errors import UserError
from ttt.results.atomic import replacing
from ttt.results.checkpoints import checkpoint_path, checkpoints, remove_checkpoint, write_digest
from ttt.results.metrics import MetricLog
from ttt.results.record import Record, RunFolder, write_record
from ttt.train.callbacks import StepEnd, checkpoint_due
from ttt.train.module import TrainingModule
from ttt.train.recording import deleted
from ttt.train.stopping import Interrupted, StopRequest

KEPT = 2
SECONDS_BETWEEN_RECORDS = 15.0


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a reader sees all of it or nothing. Its digest follows.

    Attributes:
        failure: why a file could not be written; nothing is saved after that. It is not raised at once, for then the
            other processes of a distributed run would wait for this one.
    """

    failure: UserError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Replaces ``path``."""
        if self.failure is None:
            with self.noting():
                _save_whole(checkpoint, Path(path))

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Turns a ``UserError`` into ``failure``."""
        try:
            yield
        except UserError as error:
            self.failure = error


def _save_whole(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        with replacing(path) as file:
            hashing = Hashing(file)
            hashing.save(checkpoint)
        write_digest(path, hashing.sha256.hexdigest())
    except UserError:
        remove_checkpoint(path)
        raise


class Hashing:
    """A file to write whose bytes are hashed on their way: what the disk makes of them must give the same digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self._failure: OSError | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Writes ``checkpoint`` in torch's format.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            torch.save(checkpoint, cast(BinaryIO, self))
        except RuntimeError:
            # torch goes on to close its archive when a write has failed, and tells of that instead.
            if self._failure is not None:
                raise self._failure from None
            raise

    def write(self, data: bytes) -> int:
        """Appends ``data``."""
        try:
            self.sha256.update(data)
            return self.file.write(data)
        except OSError as error:
            self._failure = error
            raise

    def flush(self) -> None:
        """As torch wants it of a file."""
        self.file.flush()


class Keep(StepEnd):
    """Saves every ``every`` optimizer steps (0: never), after the last one and when the run is asked to stop.

    The newest two checkpoints are kept. In between the record tells now and then how far the run is. Metrics are
    written before the checkpoint and the record after it: a run that dies between them misses no row and never names a
    checkpoint that is not there.

    Args:
        folder: the run's.
        record: brought up to date, after every step in memory.
        log: the run's metrics.
        every: optimizer steps between two checkpoints.
        stop: whether to end the training after this step.

    Attributes:
        files: what writes the checkpoints, a plugin of the trainer.
    """

    def __init__(self, folder: RunFolder, record: Record, log: MetricLog, every: int, stop: StopRequest) -> None:
        super().__init__()
        self.folder, self.record, self.metrics, self.every, self.stop = folder, record, log, every, stop
        self.files = WholeFiles()
        self._told_step, self._told_time = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Starts the clock of the record."""
        super().on_train_start(trainer, pl_module)
        self._told_step, self._told_time = trainer.global_step, time.monotonic()

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Keeps count, and saves when it is time."""
        self.record["steps"], self.record["tokens"] = step, step * module.plan.tokens_per_step
        seconds = time.monotonic() - self._told_time
        stop = self.stop.agreed(trainer)
        save = stop or checkpoint_due(step, module.plan.steps, self.every)
        if save or seconds >= SECONDS_BETWEEN_RECORDS:
            tokens = (step - self._told_step) * module.plan.tokens_per_step
            self.record["timing"]["tokens_per_second"] = round(tokens / max(seconds, 1e-6), 1)
            self._told_step, self._told_time = step, time.monotonic()
            if save:
                self._save(trainer, step)
            elif trainer.is_global_zero:
                self._tell()
        trainer.should_stop = trainer.should_stop or stop

    def _tell(self) -> None:
        # Nothing is lost by a record that is a little old, so a full disk is left for the next checkpoint to find.
        with suppress(UserError):
            if self.folder.path.exists():
                write_record(self.folder.record, self.record)

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        if trainer.is_global_zero:
            with self.files.noting():
                if not self.folder.path.exists():
                    raise UserError(deleted(self.folder))
                self.metrics.write()
        path = checkpoint_path(self.folder.checkpoints, step)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and self.files.failure is None:
            with self.files.noting():
                self.record["last_checkpoint"] = path.name
                write_record(self.folder.record, self.record)
                for old in checkpoints(self.folder.checkpoints)[:-KEPT]:
                    remove_checkpoint(old)
        if trainer.strategy.reduce_boolean_decision(self.files.failure is not None, all=False):
            raise self.files.failure or Interrupted("stopped by the first process", 0)
