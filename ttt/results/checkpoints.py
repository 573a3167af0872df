"""Names of a run's checkpoint files."""

from pathlib import Path

SUFFIX = ".ckpt"


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}{SUFFIX}"


def checkpoint_step(path: Path) -> int:
    """The number of optimizer steps in a name that ``checkpoint_path`` gave."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob(f"step-*{SUFFIX}"))


def last_checkpoint(folder: Path, named: str | None) -> Path | None:
    """The checkpoint to go on from: the one that the record names if it is there, else the newest, None without any.

    After a loss that diverged the newest may hold the weights that made it diverge; the record names one before.
    """
    if named is not None and (folder / named).is_file():
        return folder / named
    return next(reversed(checkpoints(folder)), None)
