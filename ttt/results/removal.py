"""Removing a run's weights or its whole folder, while no process writes there."""

import shutil
from pathlib import Path

from ttt.config.errors import UserError
from ttt.results.checkpoints import ALL_FILES
from ttt.results.lock import locked
from ttt.results.record import RunFolder, read_record, write_record


def remove_weights(folder: RunFolder) -> None:
    """Remove every checkpoint of a run; its record, metrics and tables stay.

    Raises:
        UserError: a process writes the folder, or it cannot be written.
    """
    with locked(folder.path):
        record = read_record(folder.record)
        _remove_checkpoints(folder)
        write_record(folder.record, {**record, "last_checkpoint": None})


def remove_run(folder: RunFolder) -> None:
    """Remove a run's folder and everything in it, also checkpoints in a linked folder on another disk.

    Raises:
        UserError: a process writes the folder, it is a link, or it cannot be removed.
    """
    if folder.path.is_symlink():
        raise UserError(f"{folder.path}: is a link to {folder.path.readlink()}; remove that folder")
    with locked(folder.path):
        _remove_checkpoints(folder)
        # Under another name first: nobody finds half a run, and the lock's heartbeat does not write into it.
        going = folder.path.with_name(f".{folder.path.name}.removed")
        try:
            folder.path.rename(going)
            shutil.rmtree(going)
        except OSError as error:
            raise UserError(f"{going}: cannot be removed ({error.strerror}); remove it yourself") from error


def weights_of(folder: RunFolder) -> list[Path]:
    """Return the files of a run's checkpoints, damaged ones and those that were set aside included."""
    return sorted({path for pattern in ALL_FILES for path in folder.checkpoints.glob(pattern) if path.is_file()})


def _remove_checkpoints(folder: RunFolder) -> None:
    try:
        for path in weights_of(folder):
            path.unlink()
    except OSError as error:
        raise UserError(f"{folder.checkpoints}: cannot be written ({error.strerror})") from error
