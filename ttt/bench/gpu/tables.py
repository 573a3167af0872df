"""The tables of the stages: each line is printed and saved at once, so that a kill loses only later lines."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ttt.config.text_table import Column, print_headings, print_line

Line = dict[str, str]

TABLES: dict[str, dict[str, int]] = {
    "machine": {"what": -24, "value": -60},
    "compare": {
        "layer": -6,
        "dtype": -5,
        "D": 3,
        "b": 3,
        "check": -11,
        "worst": -8,
        "of largest": 10,
        "of norm": 8,
        "verdict": -30,
    },
    "kernels": {
        "kernel": -20,
        "B x H": 5,
        "warps": 5,
        "block": 5,
        "ms": 9,
        "ns/token": 8,
        "of bound %": 10,
        "model ns": 8,
        "note": -30,
    },
    "mixers": {"mixer": -14, "tokens": 6, "B": 4, "forward ms": 10, "both ms": 9, "tokens/s": 11, "note": -30},
    "profile": {"kernel": -20, "metric": -44, "unit": -16, "value": 16},
    "sanitize": {"tool": -10, "kernels": -14, "D": 3, "b": 3, "errors": 6, "verdict": -30},
    "train": {
        "layer": -6,
        "step": 4,
        "loss, triton": 12,
        "loss, dual": 10,
        "tokens/s, triton": 16,
        "tokens/s, dual": 14,
        "MFU %, triton": 13,
        "MFU %, dual": 11,
    },
    "latency": {"model": -12, "tokens": 6, "B": 4, "what": -20, "ms": 11, "tokens/s": 11},
}
"""Stage -> columns and their widths in print; a negative width aligns left. ns/token is per token and head."""


class Table:
    """The table of a stage in a CSV file, which is begun anew.

    Args:
        folder: the folder of all tables.
        stage: a key of ``TABLES``.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.path, self._columns = path_of(folder, stage), columns_of(stage)
        folder.mkdir(parents=True, exist_ok=True)
        self._write("w", [column.heading for column in self._columns])
        print_headings(self._columns)

    def add(self, **cells: object) -> None:
        """Print and save a line; its keys are the headings with ``_`` for other characters, and may be left out."""
        named = {spelled(heading): heading for heading in (column.heading for column in self._columns)}
        line = dict.fromkeys(named.values(), "") | {named[name]: str(cell) for name, cell in cells.items()}
        self._write("a", list(line.values()))
        print_line(self._columns, line)

    def _write(self, mode: str, cells: list[str]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)


def spelled(heading: str) -> str:
    """Return a heading as a name in Python: ``B x H`` is ``B_x_H``, ``of bound %`` is ``of_bound``."""
    return "_".join("".join(c if c.isalnum() else " " for c in heading).split())


def path_of(folder: Path, stage: str) -> Path:
    """Return the file of a stage's table."""
    return folder / f"{stage}.csv"


def read_table(folder: Path, stage: str) -> list[Line]:
    """Return the saved lines of a stage, empty if it has none."""
    path = path_of(folder, stage)
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns_of(stage: str) -> tuple[Column[Line], ...]:
    """Return the columns of a stage's table."""
    return tuple(_columns(TABLES[stage]))


def _columns(widths: dict[str, int]) -> Iterator[Column[Line]]:
    for heading, width in widths.items():
        yield Column(heading, max(abs(width), len(heading)), partial(_cell, heading), width < 0)


def _cell(heading: str, line: Line) -> str:
    return line.get(heading, "")
