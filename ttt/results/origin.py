"""Relative paths in a run's configuration: they start from the directory in which the run was started."""

import os
from pathlib import Path

from ttt.config.schema import Resolved
from ttt.results.record import Record

PATHS = ("path", "tokenizer", "cache_dir")
"""Keys of ``data`` that hold a path."""


def data_from_here(record: Record) -> Resolved:
    """Return the ``data`` group of a run's configuration, its relative paths valid in the present directory.

    Paths stay as they are if the run was started here, or in a directory that this machine does not have.
    """
    data, start = record["config"]["data"], Path(record.get("started_in", os.curdir))
    if not start.is_dir() or start.samefile(os.curdir):
        return data
    return {key: _from(start, value) if key in PATHS else value for key, value in data.items()}


def _from(start: Path, path: str | None) -> str | None:
    return path if not path or path.startswith("~") else str(start / path)
