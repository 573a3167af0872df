"""Writing checkpoints, so that a run loses at most what it did since the last one."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ttt.config.errors import UserError
from ttt.results.atomic import replacing
from ttt.results.checkpoints import checkpoint_path, checkpoints
from ttt.results.metrics import MetricLog
from ttt.results.record import Record, RunFolder, write_record
from ttt.train.callbacks import StepEnd, checkpoint_due
from ttt.train.module import TrainingModule

KEPT = 2


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a reader sees all of it or nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Replaces ``path``.

        Raises:
            UserError: the folder or the file cannot be written.
        """
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's own word for a disk that fills up while it writes
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be written ({reason}); earlier checkpoints are whole") from error


class Keep(StepEnd):
    """Saves every ``every`` optimizer steps (0: never) and after the last one; keeps the newest two checkpoints.

    Metrics are written before the checkpoint and the record after it: a run that dies between them misses no row
    and never names a checkpoint that is not there.

    Args:
        folder: the run's.
        record: brought up to date, after every step in memory.
        log: the run's metrics.
        every: optimizer steps between two checkpoints.
    """

    def __init__(self, folder: RunFolder, record: Record, log: MetricLog, every: int) -> None:
        super().__init__()
        self.folder, self.record, self.metrics, self.every = folder, record, log, every

    def on_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Keeps count, and saves when it is time."""
        self.record["steps"], self.record["tokens"] = step, step * module.plan.tokens_per_step
        if checkpoint_due(step, module.plan.steps, self.every):
            self._save(trainer, step)

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        if trainer.is_global_zero:
            self.metrics.write()
        path = checkpoint_path(self.folder.checkpoints, step)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            self.record["last_checkpoint"] = path.name
            write_record(self.folder.record, self.record)
            for old in checkpoints(self.folder.checkpoints)[:-KEPT]:
                old.unlink(missing_ok=True)
