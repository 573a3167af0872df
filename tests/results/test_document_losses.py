"""The table ``documents.parquet`` is checked, and equal evaluations leave equal bytes."""

from pathlib import Path

import numpy as np
import pytest

from ttt.config.errors import UserError
from ttt.results.document_losses import read_document_losses, write_document_losses


def write(path: Path, split: str, step: int, loss: float = 1.0) -> None:
    document, tokens = np.array([0, 3]), np.array([64, 128])
    write_document_losses(path, "a", split, step, "abc", document, loss * tokens, tokens)  # type: ignore[arg-type]


def test_a_new_evaluation_replaces_its_split_and_equal_ones_leave_equal_bytes(tmp_path: Path) -> None:
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write(path, "validation", 7, 2.0)
    write(path, "test", 8)
    write(path, "validation", 8)
    write(other, "validation", 8)
    write(other, "test", 8)
    assert path.read_bytes() == other.read_bytes()
    assert read_document_losses(path).to_pandas()["loss"].tolist() == [64.0, 128.0] * 2


def test_another_file_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    path.write_text("not a table")
    with pytest.raises(UserError, match=r"documents\.parquet: not a table of losses by document"):
        write(path, "test", 1)
    assert path.read_text() == "not a table"
