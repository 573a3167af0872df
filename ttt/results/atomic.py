"""Files that are complete or absent: they are written under a temporary name and then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ttt.config.errors import UserError

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces ``path`` at the end; its folder is made if it is missing.

    A reader sees the old file or the new one, never a part; if writing fails, the old file stays.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                # Without it a power cut after the rename can leave an empty file under the final name.
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free the place or choose another") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, completely or not at all.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote into ``folder``."""
    for file in folder.glob(f".*{PARTIAL}"):
        file.unlink(missing_ok=True)
