"""Tables in a terminal, line after line as they come."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Column(NamedTuple, Generic[T]):
    """A heading, its width, and the text of a line's cell; text stands left, numbers right."""

    heading: str
    width: int
    cell: Callable[[T], str]
    left: bool = False


def print_headings(columns: Sequence[Column[T]]) -> None:
    """The first line of a table."""
    _print(columns, (column.heading for column in columns))


def print_line(columns: Sequence[Column[T]], line: T) -> None:
    """One more line, shown at once."""
    _print(columns, (column.cell(line) for column in columns))


def _print(columns: Sequence[Column[T]], cells: Iterable[str]) -> None:
    aligned = (f"{cell:{'<' if c.left else '>'}{c.width}}" for c, cell in zip(columns, cells, strict=True))
    print(" ".join(aligned).rstrip(), flush=True)


def markdown_lines(columns: Sequence[Column[T]], lines: Iterable[T]) -> list[str]:
    """The same table in Markdown, without a line break at the end of each line."""
    rows = [[column.heading for column in columns], [":---" if column.left else "---:" for column in columns]]
    rows += [[column.cell(line) for column in columns] for line in lines]
    return [f"| {' | '.join(row)} |" for row in rows]
