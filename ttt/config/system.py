"""Helpers around the operating system: cores, hashes of files, files that are complete or absent."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores that this process may use, often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_home(path: str) -> str:
    """Return a path with a leading ``~`` replaced by the home folder, or unchanged if there is no such user."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        return path


def user_path(text: str) -> Path:
    """Return a path as typed; ``~`` is the home folder unless something of that name is here."""
    return Path(text if os.path.lexists(text) else with_home(text))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def renamed_at_the_end(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    Only one process may write ``path`` at a time. The leftovers of a killed process are overwritten.
    """
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)
