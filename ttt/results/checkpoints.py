"""A run's checkpoint files: their names, and whether they are still what was written.

``step-00000250.ckpt`` has its digest beside it, in ``step-00000250.ckpt.sha256``, as ``sha256sum`` writes it. The
digest is written last: a checkpoint without one was not finished. What must not be gone on from is set aside under
another name, such as ``step-00000250.ckpt.diverged``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ttt.config.errors import UserError
from ttt.config.system import file_sha256
from ttt.results.atomic import write_text

SUFFIX = ".ckpt"
DIGEST_SUFFIX = ".sha256"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole: its file, its optimizer steps and the SHA-256 of its bytes."""

    path: Path
    step: int
    sha256: str


def checkpoint_path(folder: Path, step: int) -> Path:
    """File of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}{SUFFIX}"


def checkpoint_step(path: Path) -> int:
    """The number of optimizer steps in a name that ``checkpoint_path`` gave."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in ``folder``, whole or not, oldest first."""
    return sorted(folder.glob(f"step-*{SUFFIX}"))


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose bytes have its digest, None where there are no checkpoints.

    Each that is damaged is reported in a line on standard error.

    Raises:
        UserError: there are checkpoints, and every one is damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return _verified(path)
        except ValueError as error:
            print(f"warning: {path}: {error}; looking for the one before", file=sys.stderr)
    if found:
        raise UserError(f"{folder}: every checkpoint is damaged; restore one, or train again with overwrite=true")
    return None


def write_digest(path: Path, sha256: str) -> None:
    """Declares the checkpoint ``path`` finished, its bytes having this SHA-256.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(_digest_path(path), f"{sha256}  {path.name}\n")


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint and its digest."""
    _digest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> None:
    """Renames a checkpoint to ``<its name>.<why>``: it is kept for a look, and nothing goes on from it."""
    _digest_path(path).unlink(missing_ok=True)
    path.replace(path.with_name(f"{path.name}.{why}"))


def _verified(path: Path) -> Checkpoint:
    """Raises ValueError with the reason where the file is not what was written."""
    beside = _digest_path(path)
    try:
        expected = beside.read_text(encoding="ascii").partition(" ")[0]
        found = file_sha256(path)
    except FileNotFoundError:
        raise ValueError(f"was not written to its end (no {beside.name})") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if found != expected:
        raise ValueError(f"is damaged (its SHA-256 is not the one in {beside.name})")
    return Checkpoint(path, checkpoint_step(path), found)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{DIGEST_SUFFIX}")
