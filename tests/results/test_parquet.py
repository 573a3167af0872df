"""Tables are read as they were written, or not at all."""

import random
from pathlib import Path

import pyarrow as pa

from ttt.config.errors import UserError
from ttt.results.parquet import read_table, write_table

SCHEMA = pa.schema([("name", pa.string()), ("step", pa.int64()), ("value", pa.float64())])


def test_a_flipped_bit_never_gives_other_numbers(tmp_path: Path) -> None:
    generator = random.Random(0)
    values = [generator.random() for _ in range(200)]
    table = pa.table([["loss", "learning_rate"] * 100, list(range(200)), values], schema=SCHEMA)
    path = tmp_path / "table.parquet"
    write_table(path, table)
    whole, refused = path.read_bytes(), 0
    for bit in generator.sample(range(8 * len(whole)), 500):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            assert read_table(path, SCHEMA, ["name"], "numbers").cast(SCHEMA).equals(table)
        except UserError:
            refused += 1
    assert refused > 400
