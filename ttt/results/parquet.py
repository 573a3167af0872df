"""Tables in Parquet files: equal tables give equal bytes, and files with other columns are refused."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ttt.config.errors import UserError
from ttt.results.atomic import write_bytes


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the file ``path`` with ``table``, completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path, schema: pa.Schema, text_columns: Sequence[str], what: str) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Args:
        path: the file.
        schema: the required columns, in order.
        text_columns: columns with few distinct texts.
        what: the content of the table, for the error message.

    Raises:
        UserError: the file is missing or has other columns.
    """
    try:
        names = pq.read_schema(path).names
        if names != schema.names:
            raise pa.ArrowInvalid(f"columns {', '.join(names)} instead of {', '.join(schema.names)}")
        with pq.ParquetFile(path, read_dictionary=list(text_columns)) as file:
            return file.read()
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a table of {what} ({reason}); restore or remove the run's folder") from error
