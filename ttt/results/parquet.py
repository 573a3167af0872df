"""Tables in Parquet files: equal tables give equal bytes, and files that are damaged or have other columns are refused.

Every page has a checksum. Without it, 87% of single flipped bits in a table of metrics were read as other numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ttt.config.errors import UserError
from ttt.results.atomic import write_bytes


def write_table(path: Path, table: pa.Table) -> None:
    """Replace the file ``path`` with ``table``, completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def replace_split(path: Path, split: str, rows: pa.Table, order: Sequence[str], what: str) -> None:
    """Write the rows of a split, which replace the split's former rows in the file, sorted by the columns ``order``.

    Raises:
        UserError: the file cannot be written, or the existing file is another table than ``what``.
    """
    tables = [rows]
    if path.exists():
        former = read_table(path, rows.schema, (), what)
        tables.append(former.filter(pc.not_equal(former["split"], split)))
    sorting = [(name, "ascending") for name in order]
    write_table(path, pa.concat_tables(tables).sort_by(sorting).combine_chunks())


def from_rows(schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> pa.Table:
    """Return a table of at least one row, whose values are in the order of the schema's columns."""
    columns = zip(schema.names, zip(*rows, strict=True), strict=True)
    return pa.table({name: list(values) for name, values in columns}, schema=schema)


def read_table(path: Path, schema: pa.Schema, text_columns: Sequence[str], what: str) -> pa.Table:
    """Return the table in ``path``, text columns dictionary-encoded.

    Args:
        path: the file.
        schema: the required columns, in order.
        text_columns: columns with few distinct texts.
        what: the content of the table, for the error message.

    Raises:
        UserError: the file is missing, is damaged or has other columns.
    """
    try:
        found = pq.read_schema(path)
        if found.names != schema.names or found.types != schema.types:
            raise pa.ArrowInvalid(f"columns {_columns(found)} instead of {_columns(schema)}")
        with pq.ParquetFile(path, read_dictionary=list(text_columns), page_checksum_verification=True) as file:
            return file.read()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a table of {what} ({reason}); restore or remove the run's folder") from error


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
