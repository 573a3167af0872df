from pathlib import Path
from runpy import run_path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ttt.analysis.store import load_results
from ttt.config.errors import UserError
from ttt.results.inner_loss import SCHEMA, VALUES, per_dimension, read_inner_loss, write_inner_loss
from ttt.results.record import Record, RunFolder, read_record
from ttt.results.run_record import RunRecord

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))

Layers = list[dict[str, np.ndarray]]


def layers(number: int = 2, T: int = 3, start: float = 0.0) -> Layers:
    return [{name: start + layer + np.arange(T) / 8 for name in VALUES} for layer in range(number)]


def test_rows_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "inner_loss.parquet"
    write_inner_loss(path, "a", "validation", 7, layers(), sequences=5)
    rows = read_inner_loss(path).to_pandas()
    assert list(rows.columns) == SCHEMA.names
    assert rows["layer"].tolist() == [1, 1, 1, 2, 2, 2]
    assert rows["position"].tolist() == [1, 2, 3] * 2
    assert rows["loss_after"].tolist() == [0, 0.125, 0.25, 1, 1.125, 1.25]
    assert set(zip(rows["run_id"], rows["split"], rows["step"], rows["sequences"], strict=True)) == {
        ("a", "validation", 7, 5)
    }


@pytest.mark.parametrize(("halved", "factor"), [(True, 2 / 16), (False, 1 / 16)])
def test_losses_are_shown_per_dimension(tmp_path: Path, halved: bool, factor: float) -> None:
    """The file keeps the layer's own loss, so that files of any version are converted in the same way."""
    assert per_dimension({"size": {"width": 64, "heads": 4}, "model": {"halved_loss": halved}}) == factor
    run = synthetic["make_run"](tmp_path, steps=1, evaluated=False, halved_loss=halved)
    write_inner_loss(run.inner_loss, run.path.name, "validation", 1, layers(), sequences=5)
    size = read_record(run.record)["config"]["size"]
    shown = load_results(tmp_path).inner_loss
    own = read_inner_loss(run.inner_loss).to_pandas()
    expected = own["loss_before"] * factor * 16 / (size["width"] / size["heads"])
    np.testing.assert_allclose(shown["loss_before"], expected)
    np.testing.assert_array_equal(shown["weight_norm"], own["weight_norm"])


def test_a_new_probe_replaces_its_split_and_equal_probes_leave_equal_bytes(tmp_path: Path) -> None:
    path, other = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_inner_loss(path, "a", "validation", 7, layers(3), sequences=5)
    write_inner_loss(path, "a", "test", 7, layers(), sequences=5)
    write_inner_loss(path, "a", "validation", 8, layers(start=1.0), sequences=4)
    write_inner_loss(other, "a", "validation", 8, layers(start=1.0), sequences=4)
    write_inner_loss(other, "a", "test", 7, layers(), sequences=5)
    assert path.read_bytes() == other.read_bytes()
    rows = read_inner_loss(path).to_pandas()
    assert rows.groupby("split", observed=True)["step"].unique().map(list).to_dict() == {"test": [7], "validation": [8]}


def test_another_file_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "inner_loss.parquet"
    path.write_text("not a table")
    with pytest.raises(UserError, match=r"inner_loss\.parquet: not a table of inner losses") as error:
        write_inner_loss(path, "a", "test", 1, layers(), sequences=1)
    assert "\n" not in str(error.value)
    assert path.read_text() == "not a table"


def test_all_probed_runs_are_one_table(tmp_path: Path) -> None:
    runs = [synthetic["make_run"](tmp_path, seed=seed, steps=2, ctx=8, evaluated=False) for seed in range(3)]
    assert load_results(tmp_path).inner_loss.empty
    assert list(load_results(tmp_path).inner_loss.columns) == SCHEMA.names
    for run in runs[:2]:
        write_inner_loss(run.inner_loss, run.path.name, "validation", 2, layers(), sequences=1)
    rows = load_results(tmp_path).inner_loss
    assert set(rows["run_id"]) == {run.path.name for run in runs[:2]}
    assert len(rows) == 2 * 6
    assert pq.read_schema(runs[0].inner_loss).equals(SCHEMA)


def test_a_subject_has_one_warning_the_newest(tmp_path: Path) -> None:
    record: Record = synthetic["make_record"]("a", "ttt_mlp", "mamba", "w64", 8, 0, 3, 5, "running")
    run = RunRecord(RunFolder(tmp_path), record)
    run.warn({})
    assert "warnings" not in record
    run.warn({"train, layer 1, head 0": "at step 1: grew", "train, layer 1, head 1": "at step 1"})
    run.warn({"train, layer 1, head 0": "at step 2"})
    assert record["warnings"] == {"train, layer 1, head 1": "at step 1", "train, layer 1, head 0": "at step 2"}
