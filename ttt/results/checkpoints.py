"""A run's checkpoint files: their names and their digests.

The digest of ``step-00000250.ckpt`` is in ``step-00000250.ckpt.sha256``, in the format of ``sha256sum``. It is written
last: a checkpoint without a digest was not finished, and counts as if it were missing. A checkpoint from which no run
may resume is renamed, such as to ``step-00000250.ckpt.diverged``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ttt.config.errors import UserError, bad_value
from ttt.config.system import file_sha256
from ttt.results.atomic import write_text

SUFFIX = ".ckpt"
DIGEST_SUFFIX = ".sha256"
ALL_FILES = ("step-*.ckpt*", ".step-*", "hpc_ckpt_*")
"""Patterns of all files that runs write into their folders of checkpoints, also of a killed process."""


class UnfinishedError(ValueError):
    """A checkpoint without a digest: the process was killed before it had written both."""


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint: its file, its optimizer steps and the SHA-256 of its bytes."""

    path: Path
    step: int
    sha256: str


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}{SUFFIX}"


def checkpoint_step(path: Path) -> int:
    """Return the number of optimizer steps in a name made by ``checkpoint_path``."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, damaged or not, oldest first."""
    return sorted(folder.glob(f"step-*{SUFFIX}"))


def newest_whole(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that matches its digest, or None if no checkpoint was finished.

    Damaged and unfinished checkpoints are reported on standard error.

    Raises:
        UserError: no checkpoint is whole, and at least one is damaged or several have no digest: a kill leaves one.
    """
    paths, damaged, unfinished = checkpoints(folder), False, 0
    for path in reversed(paths):
        try:
            return _verified(path)
        except UnfinishedError as error:
            before = "trying the previous one" if path != paths[0] else "there is no earlier one"
            unfinished += 1
            print(f"warning: {path}: {error}; {before}", file=sys.stderr)
        except ValueError as error:
            damaged = True
            print(f"warning: {path}: {error}; trying the previous one", file=sys.stderr)
    if damaged:
        raise UserError(f"{folder}: every checkpoint is damaged; restore one, or train again with overwrite=true")
    if unfinished > 1:
        remedy = "copy these files too, or start over with overwrite=true"
        raise UserError(f"{folder}: no checkpoint has its .sha256 file; {remedy}")
    return None


@dataclass(frozen=True)
class Choice:
    """The weights of a run to use.

    Attributes:
        step: optimizer steps; None: of the newest checkpoint.
        average: number of checkpoints up to this one whose mean they are.
    """

    step: int | None = None
    average: int = 1


def weights_name(step: int, average: int) -> str:
    """Return the name of weights that are not the newest: ``step50``, or ``mean2-step50``, of two checkpoints."""
    return f"step{step}" if average == 1 else f"mean{average}-step{step}"


def averaged(weights: str) -> int:
    """Return the number of checkpoints whose mean the weights of this name are; 1: they are no mean."""
    mean, _, step = weights.partition("-")
    return int(mean.removeprefix("mean")) if step else 1


def chosen_whole(folder: Path, choice: Choice) -> list[Checkpoint]:
    """Return the undamaged checkpoints of a choice, newest first; none if the run has no checkpoint.

    Raises:
        UserError: there is no checkpoint of this step, or fewer than ``average``, or one of them is damaged.
    """
    newest = newest_whole(folder) if choice.step is None else None
    if choice.step is None and newest is None:
        return []
    last = newest.step if newest is not None else choice.step
    known = {checkpoint_step(path): path for path in checkpoints(folder)}
    if last not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise bad_value(
            "step", last, f"{folder.parent} has checkpoints of steps {listed}; trainer.keep_every keeps more"
        )
    paths = [path for step, path in known.items() if step <= last][-choice.average :]
    if len(paths) < choice.average:
        allowed = f"{folder.parent} has {len(paths)} checkpoints up to step {last}; trainer.keep_every keeps more"
        raise bad_value("average", choice.average, allowed)
    return [newest if newest is not None and path == newest.path else _required(path) for path in reversed(paths)]


def _required(path: Path) -> Checkpoint:
    try:
        return _verified(path)
    except ValueError as error:
        raise UserError(f"{path}: {error}; restore it, or choose others by step= and average=") from error


def require_newest(checkpoint: Checkpoint, run: str) -> None:
    """Check that a run to start from (``from=run``) has written no checkpoint since ``checkpoint`` was chosen.

    Raises:
        UserError: it has.
    """
    newest = newest_whole(checkpoint.path.parent)
    if newest is None or newest.sha256 != checkpoint.sha256:
        raise bad_value("from", run, "has just written another checkpoint; start again when it has ended")


def write_digest(path: Path, sha256: str) -> None:
    """Write the digest of the checkpoint ``path``, which completes the checkpoint.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(_digest_path(path), f"{sha256}  {path.name}\n")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its digest."""
    _digest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> None:
    """Rename a checkpoint to ``NAME.why``: it is kept for inspection, but no run resumes from it."""
    _digest_path(path).unlink(missing_ok=True)
    path.replace(path.with_name(f"{path.name}.{why}"))


def _verified(path: Path) -> Checkpoint:
    """Return the checkpoint, or raise ValueError with the reason if it is damaged, UnfinishedError if unfinished."""
    digest = _digest_path(path)
    try:
        expected = digest.read_text(encoding="ascii", errors="replace").partition(" ")[0]
        found = file_sha256(path)
    except FileNotFoundError:
        raise UnfinishedError(f"was not written to its end (no {digest.name})") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if found != expected:
        raise ValueError(f"is damaged (its SHA-256 is not the one in {digest.name})")
    return Checkpoint(path, checkpoint_step(path), found)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{DIGEST_SUFFIX}")
