"""Lightning's loggers of a run, in addition to its table of metrics."""

import uuid
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ttt.config.errors import bad_value
from ttt.config.trainer import TrainerConfig
from ttt.results.record import Record, read_record
from ttt.results.run_record import RunRecord


def require_logger(kind: str) -> None:
    """Check that the package for ``trainer.logger`` is installed.

    Raises:
        UserError: it is not installed.
    """
    if kind != "csv" and find_spec(kind) is None:
        raise bad_value("trainer.logger", kind, f"is not installed; pip install {kind}, or take csv")


def keep_wandb_id(record: RunRecord, overwrite: bool) -> None:
    """Give the record the id that the run has in Weights & Biases, before the folder of the run changes.

    It stays the same however often the run is stopped, resumed or started again, unless the user starts over.
    """
    content = record.content
    if not overwrite and "wandb_id" not in content and record.folder.record.exists():
        former = read_record(record.folder.record).get("wandb_id")
        content |= {"wandb_id": former} if former else {}
    content.setdefault("wandb_id", uuid.uuid4().hex)


def make_loggers(trainer: TrainerConfig, record: Record, folder: Path, first_step: int) -> list[Logger]:
    """Return a CSV logger and, if requested, TensorBoard or Weights & Biases, all writing to ``folder / "logs"``."""
    # Lightning's CSV logger empties its folder, so a resumed run gets a new one.
    version = f"csv-from-{first_step:08d}" if first_step else "csv"
    loggers: list[Logger] = [CSVLogger(folder, name="logs", version=version)]
    if trainer.logger == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="logs", version="tensorboard"))
    if trainer.logger == "wandb":
        where = trainer.wandb
        loggers.append(
            WandbLogger(
                save_dir=folder / "logs",
                project=where.project,
                entity=where.entity,
                group=where.group or record["sweep"],
                tags=where.tags or None,
                name=record["run_id"],
                id=record.get("wandb_id"),
                resume="allow",
            )
        )
    return loggers


def finish_loggers(loggers: Iterable[Logger]) -> None:
    """End the run in Weights & Biases, which would otherwise take up the next run of this process too."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
