"""The table ``context_gain.parquet``: losses of a run on the same tokens with more and less context before them.

| column   | type   | meaning                                                                                    |
|----------|--------|--------------------------------------------------------------------------------------------|
| run_id   | string |                                                                                            |
| split    | string | validation or test                                                                         |
| step     | int64  | optimiser steps done                                                                       |
| targets  | string | digest of the windows; losses with the same digest are of the same tokens                  |
| longest  | int64  | tokens of the windows from which the targets were chosen                                   |
| document | int64  | number of the document in the split                                                        |
| context  | int64  | tokens of context before the targets                                                       |
| control  | string | own: the document's own context; foreign, shuffled: see ``ttt.evaluate.context_gain``      |
| loss     | double | mean loss of the targets, nats/token                                                       |
| windows  | int64  | windows of the document that were averaged                                                 |

A new probe of a split replaces the split's rows. The file contains no times, so that equal runs write equal bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ttt.results.metrics import Split
from ttt.results.parquet import from_rows, read_table, replace_split

TARGETS = 256
"""Tokens at the end of a window that are judged."""

OWN, FOREIGN, SHUFFLED = "own", "foreign", "shuffled"
"""Values of ``control``."""

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("step", pa.int64()),
        ("targets", pa.string()),
        ("longest", pa.int64()),
        ("document", pa.int64()),
        ("context", pa.int64()),
        ("control", pa.string()),
        ("loss", pa.float64()),
        ("windows", pa.int64()),
    ]
)
TEXT_COLUMNS = ["run_id", "split", "targets", "control"]
WHAT = "losses by context"
"""The content of the table, for error messages."""


class Loss(NamedTuple):
    """A row of the table without its first three columns."""

    targets: str
    longest: int
    document: int
    context: int
    control: str
    loss: float
    windows: int


def write_context_gain(path: Path, run_id: str, split: Split, step: int, losses: Sequence[Loss]) -> None:
    """Write the result of a probe, which replaces the split's former result.

    Args:
        path: the file.
        run_id: the run, for every row.
        split: the split that was read.
        step: optimiser steps of the weights.
        losses: at least one row.

    Raises:
        UserError: the file cannot be written, or the existing file is another table.
    """
    rows = ((run_id, split, step, *loss) for loss in losses)
    replace_split(path, split, from_rows(SCHEMA, rows), ("split", "control", "context", "document"), WHAT)


def read_context_gain(path: Path) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Raises:
        UserError: the file is missing or is not a table of losses by context.
    """
    return read_table(path, SCHEMA, TEXT_COLUMNS, WHAT)
