"""Writing files so that they are complete or absent: under a temporary name, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ttt.config.errors import UserError

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces ``path`` at the end; its folder is created if it is missing.

    A reader sees the whole old file or the whole new one. If writing fails, the old file remains.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                # Without fsync, a power cut after the rename can leave an empty file under the final name.
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free disk space or choose another path"
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file ``path`` with ``data``, completely or not at all.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def remove_partials(folder: Path) -> None:
    """Remove temporary files that a killed process has left in ``folder``."""
    for file in folder.glob(f".*{PARTIAL}"):
        file.unlink(missing_ok=True)
