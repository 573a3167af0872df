"""Folders of installed packages as documents: names and idioms recur over tens of thousands of tokens."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import PurePosixPath

from ttt.config.schema import DataConfig
from ttt.data.pycode import PyCode
from ttt.data.sources import Document, Source, register_source

SHINGLE = 5
"""Lines of a shingle: so many consecutive lines, without indentation and without empty lines."""

SAMPLED = 4
"""Only shingles whose checksum is a multiple of this are compared, which bounds the memory."""

MOST_COPIED = 0.5
"""The largest share of a file's shingles that earlier files may have; with more, the file is a near-copy."""

TABLES = "stdlib/encodings"
"""A folder of character tables, which are no program text."""


@register_source("pyrepo")
class PyRepo(Source[DataConfig]):
    """One document per folder of ``data.packages``: its ``.py`` files in the order of their names.

    Each file begins with the line ``# package/folder/file.py``. Near-copies of earlier files and the standard
    library's tables of encodings are left out. Folders inside a folder are documents of their own, so that a split by
    documents is a split by folders.
    """

    def versions(self) -> dict[str, str]:
        """Return the installed version of each of ``data.packages``, as the source ``pycode``.

        Raises:
            UserError: there are no packages, or one is not installed.
        """
        return PyCode(self.config).versions()

    def documents(self) -> Iterator[Document]:
        """Yield every folder that has a file, named by package and path.

        Raises:
            UserError: a package is not installed, or one of its files cannot be read.
        """
        files = sorted(PyCode(self.config).documents(), key=lambda file: (_folder(file), file.name))
        for folder, members in groupby(without_copies(files), key=_folder):
            if folder != TABLES:
                yield Document(folder, "".join(f"# {file.name}\n{file.text.rstrip()}\n\n" for file in members))


def without_copies(files: Iterable[Document]) -> Iterator[Document]:
    """Yield the files that are no near-copy of files before them; see ``MOST_COPIED``."""
    seen: set[int] = set()
    for file in files:
        found = shingles(file.text)
        if not found or len(found & seen) <= MOST_COPIED * len(found):
            yield file
        seen |= found


def shingles(text: str) -> set[int]:
    """Return the checksums of a sample of the text's shingles; empty for a text with few lines."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    whole = ("\n".join(lines[start : start + SHINGLE]) for start in range(len(lines) - SHINGLE + 1))
    return {checksum for shingle in whole if (checksum := zlib.crc32(shingle.encode())) % SAMPLED == 0}


def _folder(file: Document) -> str:
    return str(PurePosixPath(file.name).parent)
