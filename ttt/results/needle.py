"""The table ``needle.parquet``: how often a run finds planted lines of text, by their depth and the text's length.

| column   | type   | meaning                                                                                     |
|----------|--------|---------------------------------------------------------------------------------------------|
| run_id   | string |                                                                                             |
| split    | string | validation or test                                                                          |
| step     | int64  | optimiser steps done                                                                        |
| targets  | string | digest of all tokens read; numbers with the same digest are of the same texts               |
| task     | string | single, several or variable: see ``ttt.evaluate.needle``                                    |
| length   | int64  | input tokens of the text, with the planted lines and the question                           |
| depth    | double | place of the line that holds the answer: 0 at the start of the text, 1 at its end           |
| cases    | int64  | number of texts                                                                             |
| right    | double | share of the cases in which the answer was the most likely token                            |
| loss     | double | mean loss of the answers, nats                                                              |

A new probe of a split replaces the split's rows. The file contains no times, so that equal runs write equal bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ttt.results.metrics import Split
from ttt.results.parquet import from_rows, read_table, replace_split

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("step", pa.int64()),
        ("targets", pa.string()),
        ("task", pa.string()),
        ("length", pa.int64()),
        ("depth", pa.float64()),
        ("cases", pa.int64()),
        ("right", pa.float64()),
        ("loss", pa.float64()),
    ]
)
TEXT_COLUMNS = ["run_id", "split", "targets", "task"]
WHAT = "recall of planted lines"
"""The content of the table, for error messages."""


class Found(NamedTuple):
    """A row of the table without its first three columns."""

    targets: str
    task: str
    length: int
    depth: float
    cases: int
    right: float
    loss: float


def write_needle(path: Path, run_id: str, split: Split, step: int, found: Sequence[Found]) -> None:
    """Write the result of a probe, which replaces the split's former result.

    Args:
        path: the file.
        run_id: the run, for every row.
        split: the split that was read.
        step: optimiser steps of the weights.
        found: at least one row.

    Raises:
        UserError: the file cannot be written, or the existing file is another table.
    """
    rows = ((run_id, split, step, *row) for row in found)
    replace_split(path, split, from_rows(SCHEMA, rows), ("split", "task", "length", "depth"), WHAT)


def read_needle(path: Path) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Raises:
        UserError: the file is missing or is not a table of recall of planted lines.
    """
    return read_table(path, SCHEMA, TEXT_COLUMNS, WHAT)
