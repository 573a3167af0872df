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
