"""Aligned tables of text, complete or line by line, and in Markdown."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


WIDTH = 80
"""Columns of a terminal, which tables keep to unless they are asked for whole names."""

NARROWEST = 8
"""Characters to which a column may be cut."""


class Column(NamedTuple, Generic[T]):
    """Heading, width and cell text of a column. Cells are aligned right unless ``left``."""

    heading: str
    width: int
    cell: Callable[[T], str]
    left: bool = False


def print_headings(columns: Sequence[Column[T]]) -> None:
    """Print the first line of a table."""
    _print(columns, (column.heading for column in columns))


def print_line(columns: Sequence[Column[T]], line: T) -> None:
    """Print the next line of a table."""
    _print(columns, (column.cell(line) for column in columns))


def _print(columns: Sequence[Column[T]], cells: Iterable[str]) -> None:
    aligned = (_padded(cell, c.width, c.left) for c, cell in zip(columns, cells, strict=True))
    print(" ".join(aligned).rstrip(), flush=True)


def markdown_lines(columns: Sequence[Column[T]], lines: Iterable[T]) -> list[str]:
    """Return the lines of the same table in Markdown."""
    rows = [[column.heading for column in columns], [":---" if column.left else "---:" for column in columns]]
    rows += [[column.cell(line) for column in columns] for line in lines]
    return [f"| {' | '.join(row)} |" for row in rows]


def text_table(rows: Sequence[Sequence[str]], left: Iterable[int] = (), gap: str = "  ") -> str:
    """Return rows of cells, headings first, in columns as wide as their cells.

    Args:
        rows: of equal length.
        left: indices of columns to align left.
        gap: text between two columns.
    """
    widths, left = [max(map(len, column)) for column in zip(*rows, strict=True)], set(left)
    cells = ((_padded(cell, widths[number], number in left) for number, cell in enumerate(row)) for row in rows)
    return "\n".join(gap.join(row).rstrip() for row in cells)


def fitted_table(rows: Sequence[Sequence[str]], left: Iterable[int] = (), gap: str = " ", width: int = WIDTH) -> str:
    """Return ``text_table`` in lines of at most ``width`` characters: the widest columns lose the middles of cells.

    Only columns that are aligned left are cut, down to ``NARROWEST`` characters each, and as long as other columns can
    be cut, none so far that two of its cells become equal.
    """
    left, columns = set(left), list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    told_apart = {number: max(NARROWEST, _least_width(columns[number])) for number in left}
    for least in (told_apart, dict.fromkeys(left, NARROWEST)):
        while sum(widths) + len(gap) * (len(widths) - 1) > width:
            longer = [number for number in left if widths[number] > least[number]]
            if not longer:
                break
            widths[max(longer, key=lambda number: widths[number])] -= 1
    return text_table([tuple(map(shortened, row, widths)) for row in rows], left, gap)


def _least_width(cells: Sequence[str]) -> int:
    """Return a width to which cells can be cut so that different ones stay different."""
    width, distinct = max(map(len, cells)), set(cells)
    while width > 1 and len({shortened(cell, width - 1) for cell in distinct}) == len(distinct):
        width -= 1
    return width


def shortened(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; a longer one loses its middle: ``ttt_li…1a2b3c4d``."""
    if len(text) <= width:
        return text
    start = (width - 1) // 2
    return f"{text[:start]}\N{HORIZONTAL ELLIPSIS}{text[start + 1 - width :]}"


def wrapped(text: str, first: str = "", below: str = "") -> str:
    """Return a text in lines of at most ``WIDTH`` characters, between words.

    Args:
        text: one paragraph.
        first: indent of the first line.
        below: indent of the others.
    """
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )


def wrapped_command(command: str, indent: str = "") -> str:
    """Return a command to be copied into a shell; lines of a long one end in a backslash."""
    lines = textwrap.wrap(command, WIDTH - len(indent) - 4, break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(f"{indent}{'  ' * bool(number)}{line}" for number, line in enumerate(lines))


def _padded(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)
