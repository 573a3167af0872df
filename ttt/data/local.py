"""Local text files: txt, JSON lines and Parquet, streamed by Hugging Face ``datasets``."""

import glob
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from ttt.config.errors import UserError, bad_value, first_line
from ttt.config.schema import DataConfig
from ttt.data.sources import Document, Source, register_source

READERS = {"txt": "text", "jsonl": "json", "json": "json", "parquet": "parquet"}
"""File extension without compression -> builder of ``datasets``."""

COMPRESSED = ("gz", "zst")

LINE_BYTES = 2**28
"""Longest line that is accepted; ``datasets`` keeps several copies of a line in memory."""

SCANNED = 2**24
"""Bytes read at once to search for line ends."""


@register_source("local")
class Local(Source[DataConfig]):
    """The files of ``data.path``: a folder, at any depth, a file, or a pattern such as ``texts/*.txt``.

    A txt file is one document, with Unix line ends. Each line of a JSON file or row of a Parquet file is one document,
    with its text in ``data.column``.
    """

    def versions(self, config: DataConfig) -> dict[str, str]:
        """Return a hash of the files' names, sizes and modification times.

        Raises:
            UserError: there are no such files.
        """
        root, paths = files_of(config)
        digest = hashlib.sha256()
        for path in paths:
            stat = path.stat()
            digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return {"files": f"{len(paths)}, {digest.hexdigest()}"}

    def documents(self, config: DataConfig) -> Iterator[Document]:
        """Yield the documents of every file, in the order of the file names.

        Raises:
            UserError: a file is empty, damaged, not UTF-8, lacks the column, or has a line that is too long.
        """
        root, paths = files_of(config)
        for path in paths:
            yield from _read(path, path.relative_to(root).as_posix(), config.column)

    def text_bytes(self, config: DataConfig) -> int | None:
        """Return the size of the files if all are uncompressed text."""
        _, paths = files_of(config)
        plain = all(reader_of(path) in ("text", "json") and not _is_compressed(path) for path in paths)
        return sum(path.stat().st_size for path in paths) if plain else None


def files_of(config: DataConfig) -> tuple[Path, list[Path]]:
    """Return the folder to which file names are relative, and the files of ``data.path`` in order.

    Raises:
        UserError: there are no readable files.
    """
    if not config.path:
        raise bad_value("data.path", config.path, "give a folder, a file, or a pattern such as texts/*.txt")
    path = Path(config.path).expanduser()
    candidates = [path] if path.is_file() else sorted(path.rglob("*") if path.is_dir() else _matches(path))
    readable = [file for file in candidates if file.is_file() and reader_of(file)]
    if not readable:
        endings = ", ".join(READERS)
        raise bad_value("data.path", config.path, f"no file there ends in {endings}, with or without .gz or .zst")
    return (path if path.is_dir() else Path(os.path.commonpath([file.parent for file in readable]))), readable


def reader_of(path: Path) -> str | None:
    """Return the builder of ``datasets`` that reads a file; None if there is none."""
    name = path.stem if _is_compressed(path) else path.name
    return READERS.get(name.rpartition(".")[2])


def check_text(row: dict[str, Any], column: str, where: str) -> str:
    """Return the text of a row.

    Raises:
        UserError: this column has no text.
    """
    if column not in row:
        raise UserError(f"data.column={column}: {where} has no such column; choose one of {', '.join(map(str, row))}")
    text = row[column]
    if not isinstance(text, str):
        kind = "nothing" if text is None else type(text).__name__
        raise UserError(f"data.column={column}: {where} has {kind} there, not text; fix it or choose another column")
    return text


def _matches(pattern: Path) -> Iterator[Path]:
    return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))


def _is_compressed(path: Path) -> bool:
    return path.suffix.removeprefix(".") in COMPRESSED


def _read(path: Path, name: str, column: str) -> Iterator[Document]:
    reader = cast(str, reader_of(path))
    whole_file = reader == "text"
    number = 0
    for number, row in enumerate(_rows(path, reader), start=1):
        text = check_text(row, "text" if whole_file else column, f"{path} row {number}")
        if "\0" in text:
            raise UserError(f"{path}: row {number} has a zero byte, so it is not text; fix it or leave it out")
        yield Document(name if whole_file else f"{name}:{number}", text)
    if not number:
        raise _unreadable(path, "it has no documents")


def _rows(path: Path, reader: str) -> Iterator[dict[str, Any]]:
    # Imported here: the import takes a second.
    from datasets import config, load_dataset

    # Otherwise datasets reports every opened file to a server, and waits seconds for the answer without a network.
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # datasets logs errors itself; the user should see only one line.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    if not path.stat().st_size:
        raise _unreadable(path, "it is empty")
    options = {"sample_by": "document"} if reader == "text" else {}
    try:
        if reader != "parquet":
            _refuse_long_lines(path)
        rows = load_dataset(reader, data_files=glob.escape(str(path)), split="train", streaming=True, **options)
        yield from rows
    except StopIteration:
        # datasets raises this for JSON that is only white space.
        return
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        # datasets also raises exceptions of its parsers and decompressors.
        raise _unreadable(path, first_line(error)) from error


def _refuse_long_lines(path: Path) -> None:
    if path.stat().st_size <= LINE_BYTES and not _is_compressed(path):
        return
    with fsspec.open(str(path), "rb", compression="infer") as opened:
        file = cast(BinaryIO, opened)
        length = 0
        while block := file.read(SCANNED):
            ending = block.find(b"\n")
            length += len(block) if ending < 0 else ending
            if length > LINE_BYTES:
                raise _unreadable(path, f"a line is longer than {LINE_BYTES:,} bytes")
            if ending >= 0:
                length = len(block) - block.rfind(b"\n") - 1


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(f"{path}: cannot be read ({why}); fix it or leave it out of data.path")
