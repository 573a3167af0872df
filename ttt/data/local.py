"""Local text files: txt, JSON lines and Parquet, read as a stream."""

import hashlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig
from ttt.config.system import user_path
from ttt.data.paths import files_below, files_like, is_pattern
from ttt.data.rows import rows_of, unreadable
from ttt.data.sources import Document, Source, register_source

READERS = {"txt": "text", "jsonl": "json", "json": "json", "parquet": "parquet"}
"""File extension without compression -> reader of ``ttt.data.rows``."""

COMPRESSED = ("gz", "zst")


@register_source("local")
class Local(Source[DataConfig]):
    """The files of ``data.path``: a folder, at any depth, a file, or a pattern such as ``texts/*.txt``.

    A txt file is one document, with Unix line ends. Each line of a JSON file or row of a Parquet file is one document,
    with its text in ``data.column``; rows without text are left out, and their number is reported once.
    """

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self._reported = False

    def versions(self) -> dict[str, str]:
        """Return a hash of the files' names, sizes and modification times.

        Raises:
            UserError: there are no such files.
        """
        root, paths, _ = files_of(self.config.path)
        digest = hashlib.sha256()
        for path in paths:
            stat = path.stat()
            digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return {"files": f"{len(paths)}, {digest.hexdigest()}"}

    def documents(self) -> Iterator[Document]:
        """Yield the documents of every file, in the order of the file names.

        Raises:
            UserError: a file is empty, damaged, not UTF-8, lacks the column, or has a line that is too long.
        """
        root, paths, left_out = files_of(self.config.path)
        rows = without = 0
        for path in paths:
            texts = yield from _read(path, path.relative_to(root).as_posix(), self.config.column)
            rows, without = rows + texts.rows, without + texts.without
        if not self._reported:
            report_rows_without_text(self.config, rows, without)
            if left_out:
                line = (
                    f"data={self.config.name}: {left_out:,} files that do not end in {', '.join(READERS)} are left out"
                )
                tqdm.write(f"{line}; a pattern such as 'FOLDER/**/*.md' reads any text file", file=sys.stderr)
            self._reported = True

    def text_bytes(self) -> int | None:
        """Return the size of the files if all are uncompressed text."""
        paths = files_of(self.config.path).paths
        plain = all(reader_of(path) in ("text", "json") and not _is_compressed(path) for path in paths)
        return sum(path.stat().st_size for path in paths) if plain else None


class Files(NamedTuple):
    """The files of ``data.path`` in order, the folder to which names are relative, and the number of files left out."""

    root: Path
    paths: list[Path]
    left_out: int


def files_of(named: str | None) -> Files:
    """Return the files of ``data.path``: of a folder those with known endings, else every file that is named.

    Raises:
        UserError: the path does not exist, or there are no readable files.
    """
    if not named:
        raise bad_value("data.path", named, "give a folder, a file, or a pattern such as texts/*.txt")
    path = user_path(named)
    if path.is_dir():
        found = files_below(path)
        readable = [file for file in found if _has_known_ending(file)]
        if not readable:
            endings = f"no file there ends in {', '.join(READERS)}, with or without .gz or .zst"
            raise bad_value("data.path", named, f"{endings}; name other text files by a pattern")
        return Files(path, readable, len(found) - len(readable))
    if not path.exists() and not is_pattern(named):
        raise bad_value("data.path", named, "does not exist")
    found = [path] if path.exists() else files_like(path)
    readable = _named(found, path.name)
    if not readable:
        raise bad_value("data.path", named, "no file matches this pattern")
    return Files(Path(os.path.commonpath([file.parent for file in readable])), readable, len(found) - len(readable))


def check_paths(data: DataConfig) -> None:
    """Check that the files of the text and of the tokenizer exist, before anything large is loaded.

    Sources that are not shipped may use ``path`` for something else than files.

    Raises:
        UserError: a path is missing or does not exist, or no readable file is there.
    """
    if data.packed is not None:
        if not user_path(data.packed).is_file():
            raise bad_value("data.packed", data.packed, "no such file; ttt-data pack writes one")
        return
    if data.source == "local" or (data.source == "hub" and data.path):
        files_of(data.path)
    elif data.source == "tokens" and data.path and not user_path(data.path).exists():
        raise bad_value("data.path", data.path, "does not exist")
    if data.tokenizer is not None and not user_path(data.tokenizer).is_file():
        raise bad_value("data.tokenizer", data.tokenizer, "no such file")


def reader_of(path: Path) -> str:
    """Return the reader of a file; files with unknown endings are text."""
    name = path.name.lower()
    name = name.rpartition(".")[0] if _is_compressed(path) else name
    return READERS.get(name.rpartition(".")[2], "text")


def _has_known_ending(path: Path) -> bool:
    name = path.stem if _is_compressed(path) else path.name
    return name.rpartition(".")[2].lower() in READERS


def _named(found: list[Path], pattern: str) -> list[Path]:
    """Return the files that a pattern names; like a folder, ``*`` names only known endings if there are any."""
    known = [file for file in found if _has_known_ending(file)]
    if known and pattern.strip("*") == "":
        return known
    return [file for file in found if file in known or file.name[0] != "." or pattern[0] == "."]


class RowTexts:
    """The texts in a column of rows, and the number of rows without one.

    Attributes:
        rows: rows read.
        without: rows without the column, or with null in it.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self.rows = self.without = 0

    def text_of(self, row: dict[str, Any], where: str) -> str | None:
        """Return the text of a row; None if it has none.

        Raises:
            UserError: the column has something else than text.
        """
        self.rows += 1
        text = row.get(self._column)
        if text is None:
            self.without += 1
        elif not isinstance(text, str):
            kind = type(text).__name__
            allowed = f"{where} has {kind} there, not text; fix it or choose another column"
            raise UserError(f"data.column={self._column}: {allowed}")
        return text

    def require_some(self, first: dict[str, Any], where: str) -> None:
        """Check that there was a text, after all rows of a file.

        Raises:
            UserError: no row has text.
        """
        if self.without < self.rows:
            return
        if self._column in first:
            raise UserError(f"data.column={self._column}: none of the {self.rows} rows of {where} has text there")
        columns = ", ".join(map(str, first))
        raise UserError(f"data.column={self._column}: {where} row 1 has no such column; choose one of {columns}")


def report_rows_without_text(config: DataConfig, rows: int, without: int) -> None:
    """Print the number of rows that are left out, if there are any."""
    if without:
        line = f"data={config.name}: {without:,} of {rows:,} rows have no text in data.column={config.column}, left out"
        tqdm.write(line, file=sys.stderr)


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in COMPRESSED


def _read(path: Path, name: str, column: str) -> Generator[Document, None, RowTexts]:
    """Yield the documents of a file; return the count of its rows."""
    reader = reader_of(path)
    whole_file = reader == "text"
    texts = RowTexts("text" if whole_file else column)
    first: dict[str, Any] = {}
    for number, row in enumerate(rows_of(path, reader, column), start=1):
        first = first or row
        text = texts.text_of(row, f"{path} row {number}")
        if text is not None:
            _check_characters(text, f"{path}: row {number}")
            yield Document(name if whole_file else f"{name}:{number}", text)
    if not texts.rows:
        raise unreadable(path, "it has no documents")
    texts.require_some(first, str(path))
    return texts


def _check_characters(text: str, where: str) -> None:
    if "\0" in text:
        raise UserError(f"{where} has a zero byte, so it is not text; fix it or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} is not text ({error.reason}); fix it or leave it out") from error
