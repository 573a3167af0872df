"""Files as a user names them: folders, files and patterns, through links."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, in the order of their names; links to folders are followed."""
    return sorted(file for inner in _folders(folder) for file in inner.iterdir() if file.is_file())


def files_like(pattern: Path) -> list[Path]:
    """Return the files that a pattern matches, in the order of their names.

    ``**`` is any number of folders, links included. Folders of the pattern that exist are taken as they are, although
    they may have brackets in their names.
    """
    folder, parts = Path(pattern.anchor), [*pattern.parts[bool(pattern.anchor) :]]
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return sorted({path for path in _matches(folder, parts) if path.is_file()})


def _matches(folder: Path, parts: list[str]) -> Iterator[Path]:
    if "**" not in parts:
        yield from folder.glob("/".join(parts)) if parts else folder.iterdir()
        return
    before, after = parts[: parts.index("**")], parts[parts.index("**") + 1 :]
    for start in folder.glob("/".join(before)) if before else [folder]:
        for inner in _folders(start) if start.is_dir() else ():
            yield from _matches(inner, after)


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and all folders below it, each once, whatever links lead to it."""
    seen: set[str] = set()
    for inner, names, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(inner)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        yield Path(inner)


def is_pattern(text: str) -> bool:
    """Return whether a path has characters of a pattern."""
    return glob.has_magic(text)
