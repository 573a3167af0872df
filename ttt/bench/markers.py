"""Tables that a command writes into a Markdown file, between two lines of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ttt.config.errors import UserError
from ttt.results.atomic import write_text


class Markers(NamedTuple):
    """The lines before and after a table."""

    begin: str
    end: str


def around(path: Path, markers: Markers) -> tuple[str, str]:
    """Return the text of a file before and after its table, markers included.

    Raises:
        UserError: the file cannot be read or lacks the markers.
    """
    begin, end = markers
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UserError(f"{path}: needs one line {begin} and one line {end}; the table is written between them")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def write_between(path: Path, markers: Markers, lines: Sequence[str]) -> None:
    """Replace the lines between the markers of a file.

    Raises:
        UserError: as ``around``, or the file cannot be written.
    """
    before, after = around(path, markers)
    write_text(path, "\n".join([before, *lines, after]))
