"""The table ``context_gain.parquet`` is checked, and equal probes leave equal bytes."""

from pathlib import Path

import pytest

from ttt.config.errors import UserError
from ttt.results.context_gain import SCHEMA, Loss, read_context_gain, write_context_gain


def losses(loss: float = 1.0) -> list[Loss]:
    cases = ((document, context) for context in (256, 768) for document in (4, 9))
    return [Loss("abc", 1024, document, context, "own", loss + document, 2) for document, context in cases]


def test_a_new_probe_replaces_its_split_and_equal_probes_leave_equal_bytes(tmp_path: Path) -> None:
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_context_gain(path, "a", "validation", 7, losses(2.0))
    write_context_gain(path, "a", "test", 7, losses())
    write_context_gain(path, "a", "validation", 8, losses()[::-1])
    write_context_gain(other, "a", "validation", 8, losses())
    write_context_gain(other, "a", "test", 7, losses())
    assert path.read_bytes() == other.read_bytes()
    rows = read_context_gain(path).to_pandas()
    assert list(rows.columns) == SCHEMA.names
    assert rows.groupby("split", observed=True)["step"].unique().map(list).to_dict() == {"test": [7], "validation": [8]}
    assert rows.query("split == 'test'")["loss"].tolist() == [5.0, 10.0, 5.0, 10.0]


def test_another_file_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "context_gain.parquet"
    path.write_text("not a table")
    with pytest.raises(UserError, match=r"context_gain\.parquet: not a table of losses by context"):
        write_context_gain(path, "a", "test", 1, losses())
    assert path.read_text() == "not a table"
