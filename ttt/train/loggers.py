"""Lightning's loggers of a run, in addition to its table of metrics."""

from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from ttt.config.errors import bad_value


def require_logger(kind: str) -> None:
    """Check that the package for ``trainer.logger`` is installed.

    Raises:
        UserError: it is not installed.
    """
    if kind != "csv" and find_spec(kind) is None:
        raise bad_value("trainer.logger", kind, f"is not installed; pip install {kind}, or take csv")


def make_loggers(kind: str, folder: Path, name: str, first_step: int) -> list[Logger]:
    """Return a CSV logger and, if requested, TensorBoard or Weights & Biases, all writing to ``folder / "logs"``."""
    # Lightning's CSV logger empties its folder, so a resumed run gets a new one.
    version = f"csv-from-{first_step:08d}" if first_step else "csv"
    loggers: list[Logger] = [CSVLogger(folder, name="logs", version=version)]
    if kind == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="logs", version="tensorboard"))
    if kind == "wandb":
        loggers.append(WandbLogger(save_dir=folder / "logs", project="ttt-suite", name=name))
    return loggers
