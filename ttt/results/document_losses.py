"""The table ``documents.parquet``: losses of a run on each document of its evaluations at the trained context.

An evaluation at another context or on another text has a table of its own, ``evaluations/NAME-documents.parquet``.

| column   | type   | meaning                                                                              |
|----------|--------|--------------------------------------------------------------------------------------|
| run_id   | string |                                                                                      |
| split    | string | validation, test, or all: of a text without these                                    |
| step     | int64  | optimiser steps done                                                                 |
| windows  | string | digest of the windows; losses with the same digest are of the same tokens            |
| document | int64  | number of the document in the split                                                  |
| loss     | double | sum of the losses of the document's tokens, nats                                     |
| tokens   | int64  | number of these tokens                                                               |

A new evaluation of a split replaces the split's rows. The file contains no times, so that equal runs write equal bytes.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from ttt.results.metrics import Split
from ttt.results.parquet import read_table, replace_split

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("step", pa.int64()),
        ("windows", pa.string()),
        ("document", pa.int64()),
        ("loss", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
TEXT_COLUMNS = ["run_id", "split", "windows"]
WHAT = "losses by document"
"""The content of the table, for error messages."""


def write_document_losses(
    path: Path,
    run_id: str,
    split: Split,
    step: int,
    windows: str,
    document: np.ndarray,
    loss: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Write the losses of an evaluation, which replace those of the split's former evaluation.

    Args:
        path: the file.
        run_id: the run, for every row.
        split: the split that was read.
        step: optimiser steps of the weights.
        windows: digest of the windows.
        document: int64 [D], numbers of the documents.
        loss: float64 [D], sums in nats.
        tokens: int64 [D].

    Raises:
        UserError: the file cannot be written, or the existing file is another table.
    """
    same = {"run_id": run_id, "split": split, "step": step, "windows": windows}
    columns = {name: [value] * len(document) for name, value in same.items()}
    rows = pa.table(columns | {"document": document, "loss": loss, "tokens": tokens}, schema=SCHEMA)
    replace_split(path, split, rows, ("split", "document"), WHAT)


def read_document_losses(path: Path) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Raises:
        UserError: the file is missing or is not a table of losses by document.
    """
    return read_table(path, SCHEMA, TEXT_COLUMNS, WHAT)
