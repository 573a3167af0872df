"""The action for a run's folder: start a run, resume it, report that it is finished, or refuse the folder."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from ttt.config.errors import UserError, bad_value, first_line
from ttt.config.identity import differences, identity
from ttt.config.plain import from_plain
from ttt.config.plan import check_same_batches
from ttt.config.schema import Resolved, TrainConfig
from ttt.results.atomic import PARTIAL, remove_partials
from ttt.results.checkpoints import ALL_FILES, Checkpoint, checkpoint_step, checkpoints, newest_whole, set_aside
from ttt.results.lock import LOCK_FILES
from ttt.results.record import Record, RunFolder, read_record
from ttt.train.planning import RunPlan

REMEDY = "ckpt=last resumes it, overwrite=true starts over, run=FOLDER chooses another folder"

LOGS = "logs"
"""The folder of a run's loggers."""

LOGGERS = "csv*"
"""Names in ``logs/`` that are removed even if it is a link to another folder, as ``ALL_FILES`` of checkpoints are."""

WRITTEN_KEYS = {"model", "backbone", "size", "ctx", "data", "recipe", "trainer", "seed"}
"""Keys of every ``config.yaml`` of a run, which distinguish it from another program's."""

RunAction = Literal["start", "resume", "finished"]


@dataclass(frozen=True)
class Opening:
    """The action for a run's folder.

    Attributes:
        action: start, resume or finished.
        record: of a run that is resumed or finished.
        newest: the checkpoint to resume from.
    """

    action: RunAction
    record: Record | None = None
    newest: Checkpoint | None = None


def open_run(plan: RunPlan) -> Opening:
    """Return the action for the run's folder; nothing is changed.

    Raises:
        UserError: the folder belongs to another run or contains other files, it contains steps of this run and
            resuming was not requested, or no checkpoint to resume from is undamaged.
    """
    folder, config = plan.folder, plan.config
    if not folder.path.exists():
        return Opening("start")
    if plan.parent is not None and folder.path.samefile(plan.parent.run):
        raise bad_value("run", folder.path, "is the run to start from; choose another folder")
    if folder.record.exists():
        record = read_record(folder.record)
        return Opening("start") if config.overwrite else _open_record(plan, record)
    _check_without_record(plan)
    return Opening("start")


def _open_record(plan: RunPlan, record: Record) -> Opening:
    """Return the action for a folder with this record: ``open_run`` without ``overwrite``.

    A finished run that has lost its last checkpoint resumes from an earlier one. If all its checkpoints were removed,
    it has lost none that it could resume from.
    """
    folder, config = plan.folder, plan.config
    former = _check_same_run(plan, record["config"])
    finished = record["status"] == "finished" and record["steps"] >= plan.step_plan.steps
    paths = checkpoints(folder.checkpoints)
    if finished and (config.ckpt != "last" or not paths):
        return Opening("finished", record)
    if not paths:
        return Opening("start")
    if config.ckpt != "last":
        raise UserError(f"{folder.path}: contains {record['steps']} steps of this run ({record['status']}); {REMEDY}")
    newest = newest_whole(folder.checkpoints)
    if finished and newest is not None and newest.path == paths[-1] and newest.step == record["steps"]:
        return Opening("finished", record)
    check_same_batches(config, former)
    # If no checkpoint was finished, the run starts from its first step, with a new record.
    return Opening("start") if newest is None else Opening("resume", record, newest)


def _check_without_record(plan: RunPlan) -> None:
    """Check that a folder without a record is empty, or has only what a killed process has left of this run.

    The record is written last at a start and removed first by ``reset_folder``; ``config.yaml`` is written first and
    removed last. So a folder with files of a run and no record has the configuration of that run.

    Raises:
        UserError: the folder has other files, or checkpoints of another run, or checkpoints that the user has not
            agreed to lose.
    """
    folder, config = plan.folder, plan.config
    if not folder.path.is_dir() or _other_files(folder):
        raise UserError(f"run={folder.path}: contains other files and no run; choose another folder")
    if config.overwrite or not checkpoints(folder.checkpoints):
        return
    former = _left_config(folder)
    if former is not None:
        _check_same_run(plan, former)
    remedy = "ckpt=last or overwrite=true starts the run from its first step, run=FOLDER chooses another folder"
    if config.ckpt != "last":
        raise UserError(f"{folder.path}: contains checkpoints and no record; {remedy}")
    print(f"warning: {folder.path}: contains no record; the run starts from its first step", file=sys.stderr)


def _other_files(folder: RunFolder) -> bool:
    """Return whether a folder without a record contains anything that a killed run cannot have left there."""
    left = {path.name for path in folder.path.iterdir() if not path.match(f".*{PARTIAL}")} - {*LOCK_FILES}
    folders = {folder.checkpoints, folder.evaluations, folder.path / LOGS}
    own = {folder.config, folder.metrics, *folder.tables, *folder.tokenizers, *folders}
    return bool(left) and (_left_config(folder) is None or bool(left - {path.name for path in own}))


def _left_config(folder: RunFolder) -> Resolved | None:
    """Return the content of ``config.yaml`` as a run writes it; None: the file is missing or another program's."""
    try:
        plain = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return plain if isinstance(plain, dict) and plain.keys() >= WRITTEN_KEYS else None


def reset_folder(folder: RunFolder) -> None:
    """Create the folder and remove the files of an earlier run in it, but no other files.

    The record goes first and the configuration last; see ``_check_without_record``.

    Raises:
        UserError: the folder cannot be written.
    """
    for part in (folder.checkpoints, folder.path / LOGS):
        if part.is_symlink() and not part.is_dir():
            raise bad_value("run", folder.path, f"{part.name}/ is a link to no folder; create {part.readlink()}")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        remove_partials(folder.path)
        for file in (folder.record, folder.metrics, *folder.tables, *folder.tokenizers):
            file.unlink(missing_ok=True)
        for part in (folder.evaluations, folder.checkpoints, folder.path / LOGS):
            _empty(part)
        folder.config.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _empty(part: Path) -> None:
    """Remove a folder of the run, or, if it is a link such as to a larger disk, what runs have written there."""
    if part.is_symlink():
        for path in part.iterdir():
            if path.is_dir() and path.match(LOGGERS):
                shutil.rmtree(path)
            elif any(path.match(pattern) for pattern in ALL_FILES):
                path.unlink()
    elif part.exists():
        shutil.rmtree(part)


def rewind_folder(folder: RunFolder, newest: Checkpoint) -> None:
    """Set aside checkpoints newer than ``newest``; remove unfinished files of a killed process and losses by document.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for part in (folder.path, folder.checkpoints):
            remove_partials(part)
        # Of weights that the run will train further; its evaluation at the end writes it again.
        folder.documents.unlink(missing_ok=True)
        for path in checkpoints(folder.checkpoints):
            if checkpoint_step(path) > newest.step:
                set_aside(path, "damaged")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _check_same_run(plan: RunPlan, plain: Resolved) -> TrainConfig:
    """Check that the configuration of an earlier run, in plain containers, is that of this run; return it."""
    former = from_plain(plain, type(plan.config.model), type(plan.config.data))
    ours, theirs = plan.identity, identity(former)
    if plan.config.ckpt == "last":
        # Kernels differ only by rounding: a run may go on with another one.
        ours, theirs = ({key: value for key, value in one.items() if key != "kernel"} for one in (ours, theirs))
    different = differences(ours, theirs)
    if different:
        listed = "; ".join(different[:3]) + ("; ..." if len(different) > 3 else "")
        path = plan.folder.path
        raise UserError(f"run={path}: belongs to another configuration ({listed}); choose another folder")
    return former


def _unwritable(folder: RunFolder, error: OSError) -> UserError:
    reason = error.strerror or first_line(error)
    return bad_value("run", folder.path, f"cannot be written ({reason}); choose another folder")
