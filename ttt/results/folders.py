"""The folder of a run among others, found by the run's id whatever words its name has besides."""

import os
from pathlib import Path

from ttt.config.folder_name import folder_name
from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig
from ttt.results.record import RECORD_FILE


def folder_of(config: TrainConfig, runs: Path) -> Path:
    """Return the folder of a run below ``runs``: the one that has its record, or the one to make."""
    return find_run(runs, run_id(config)) or runs / folder_name(config)


def find_run(runs: Path, run_id: str) -> Path | None:
    """Return the folder directly below ``runs`` that has the record of a run, or None.

    Args:
        runs: a folder of run folders; it may be missing.
        run_id: the run's id. Its folder is named after it, as all were in earlier versions, or has words before the
            seed; see ``ttt.config.folder_name``.
    """
    names, seed, digest = run_id.rpartition("-seed")
    start, end = f"{names}-", f"{seed}{digest}"
    try:
        others = [entry.name for entry in os.scandir(runs) if entry.name.startswith(start) and entry.name.endswith(end)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = (runs / name for name in sorted({run_id, *others}, key=lambda name: (name != run_id, name)))
    return next((folder for folder in found if (folder / RECORD_FILE).is_file()), None)
