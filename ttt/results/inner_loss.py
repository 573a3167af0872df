"""The table ``inner_loss.parquet``: inner losses of a run at every token of a sequence.

| column       | type   | meaning                                                           |
|--------------|--------|-------------------------------------------------------------------|
| run_id       | string |                                                                   |
| split        | string | validation or test                                                |
| step         | int64  | optimiser steps done                                              |
| layer        | int64  | TTT layer, from 1                                                 |
| position     | int64  | token index t, from 1                                             |
| loss_initial | double | inner loss of token t under W_0                                   |
| loss_before  | double | under W_{t-1}, the weights after the tokens before it             |
| loss_after   | double | under W_t, after its own update                                   |
| update_norm  | double | norm of W_t - W_{t-1}                                             |
| weight_norm  | double | norm of W_t                                                       |
| sequences    | int64  | number of sequences, with all their heads, that were averaged     |

The inner loss is the layer's: the sum of squared errors over the head's dimensions, halved with
``model.halved_loss``. ``per_dimension`` converts it to the paper's measure. A new probe of a split replaces the split's
rows. The file contains no times, so that equal runs write equal bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ttt.config.schema import Resolved
from ttt.results.metrics import Split
from ttt.results.parquet import read_table, replace_split

LOSSES = ("loss_initial", "loss_before", "loss_after")
VALUES = (*LOSSES, "update_norm", "weight_norm")

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("split", pa.string()),
        ("step", pa.int64()),
        ("layer", pa.int64()),
        ("position", pa.int64()),
        *((name, pa.float64()) for name in VALUES),
        ("sequences", pa.int64()),
    ]
)
TEXT_COLUMNS = ["run_id", "split"]


def write_inner_loss(
    path: Path, run_id: str, split: Split, step: int, layers: Sequence[Mapping[str, np.ndarray]], sequences: int
) -> None:
    """Write the result of a probe, which replaces the split's former result.

    Args:
        path: the file.
        run_id: the run, for every row.
        split: the split that was read.
        step: optimiser steps of the weights.
        layers: for each layer the values of every name in ``VALUES``, [T], averaged over sequences and heads.
        sequences: number of sequences.

    Raises:
        UserError: the file cannot be written, or the existing file is another table.
    """
    tables = [_rows(run_id, split, step, number, values, sequences) for number, values in enumerate(layers, 1)]
    replace_split(path, split, pa.concat_tables(tables), ("split", "layer", "position"), "inner losses")


def per_dimension(config: Resolved) -> float:
    """Return the factor from a layer's inner loss to the mean squared error per dimension, which the paper shows.

    The authors' code takes the mean over the dimensions of a head and does not halve it (``ttt_loss_mse`` in
    ttt-lm-jax), so that heads of different widths compare.

    Args:
        config: a run's configuration, as in its record.
    """
    return dimension_factor(config["size"]["width"] / config["size"]["heads"], config["model"].get("halved_loss"))


def dimension_factor(head_dim: float, halved_loss: bool | None) -> float:
    """Return ``per_dimension`` for heads of this width; ``halved_loss``: ``model.halved_loss``, None without one."""
    return (2 if halved_loss else 1) / head_dim


def read_inner_loss(path: Path) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Raises:
        UserError: the file is missing or is not a table of inner losses.
    """
    return read_table(path, SCHEMA, TEXT_COLUMNS, "inner losses")


def _rows(
    run_id: str, split: Split, step: int, layer: int, values: Mapping[str, np.ndarray], sequences: int
) -> pa.Table:
    T = len(values[VALUES[0]])
    same = {"run_id": run_id, "split": split, "step": step, "layer": layer, "sequences": sequences}
    columns = {name: [value] * T for name, value in same.items()} | {"position": np.arange(1, T + 1), **values}
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
