"""The rows of a local file: the text of a text file, objects of a JSON file, or the text column of a Parquet file."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from ttt.config.errors import UserError, first_line

LINE_BYTES = 2**28
"""Longest line that is accepted; several copies of a line are kept in memory."""

PARQUET_ROWS = 1024
"""Rows of a Parquet file in memory at once."""

BOM = b"\xef\xbb\xbf"


def rows_of(path: Path, reader: str, column: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; ``reader`` is ``text``, ``json`` or ``parquet``. Only ``column`` must be readable.

    Raises:
        UserError: the file is empty, damaged or not UTF-8, or a line is too long.
    """
    try:
        if not path.stat().st_size:
            raise unreadable(path, "it is empty")
        if reader == "parquet":
            yield from _parquet_rows(path, column)
            return
        with _opened(path) as file:
            yield from _json_rows(path, file) if reader == "json" else _text_row(file)
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        # The parsers and decompressors raise exceptions of many types.
        raise unreadable(path, first_line(error)) from error


def unreadable(path: Path, why: str) -> UserError:
    """Return the error for a file that cannot be read."""
    return UserError(f"{path}: cannot be read ({why}); fix it or leave it out of data.path")


class _ZstFrames(io.RawIOBase):
    """All frames of a .zst file; the end of a file that was cut is an error."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._compressed = self._text = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            self._compressed = self._compressed or self._file.read(2**17)
            if not self._compressed:
                if not self._frame.eof:
                    raise EOFError("zstd decompress error: the file was cut")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                self._text = self._frame.decompress(self._compressed)
            except zstandard.ZstdError as error:
                why = first_line(error).removeprefix("zstd decompressor error: ")
                raise ValueError(f"zstd decompress error: {why}") from error
            self._compressed = self._frame.unused_data if self._frame.eof else b""
        size = min(len(buffer), len(self._text))
        buffer[:size], self._text = self._text[:size], self._text[size:]
        return size


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_ZstFrames(path), 2**17)
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _text_row(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    text = file.read().decode("utf-8")
    yield {"text": text.replace("\r\n", "\n").replace("\r", "\n")}


def _json_rows(path: Path, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    number = 0
    for value in _json_values(path, file):
        for row in value if isinstance(value, list) else [value]:
            number += 1
            if not isinstance(row, dict):
                raise unreadable(path, f"row {number} is not a JSON object")
            yield row


def _json_values(path: Path, file: IO[bytes]) -> Iterator[Any]:
    """Yield the value of each line; from the first line that is no value on, the values in the rest of the file."""
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise unreadable(path, f"a line is longer than {LINE_BYTES:,} bytes")
        text = (line.removeprefix(BOM) if number == 1 else line).decode("utf-8").strip()
        if not text:
            continue
        try:
            value = DECODER.decode(text)
        except json.JSONDecodeError as error:
            rest = file.read(LINE_BYTES)
            if file.read(1):
                raise unreadable(path, f"JSON parse error in line {number}: {error.msg}") from error
            yield from _values(path, number, f"{text}\n{rest.decode('utf-8')}")
            return
        yield value


def _values(path: Path, line: int, text: str) -> Iterator[Any]:
    """Yield values that share a line or take several lines."""
    end = 0
    try:
        while end < len(text):
            value, end = DECODER.raw_decode(text, end)
            yield value
            while text[end : end + 1].isspace():
                end += 1
    except json.JSONDecodeError as error:
        line += text.count("\n", 0, error.pos)
        raise unreadable(path, f"JSON parse error in line {line}: {error.msg}") from error


def _number(_: str) -> int:
    return 0


DECODER = json.JSONDecoder(parse_int=_number)
"""Numbers are not read: only texts are, and Python limits the digits of an integer."""


def _parquet_rows(path: Path, column: str) -> Iterator[dict[str, Any]]:
    # Imported here: the import takes time.
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            if file.metadata.num_rows:
                yield dict.fromkeys(names)
            return
        for batch in file.iter_batches(PARQUET_ROWS, columns=[column]):
            yield from ({column: text} for text in batch.column(0).to_pylist())
