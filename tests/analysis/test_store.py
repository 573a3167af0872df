import json
import shutil
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from ttt.analysis.run_rows import RUN_COLUMNS
from ttt.analysis.store import load_results
from ttt.cli.label import label_of_plain
from ttt.config.errors import UserError
from ttt.results.metrics import SCHEMA
from ttt.results.record import RunFolder

synthetic = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))
LABEL = {"model": "ttt_linear", "backbone": "mamba", "size": "w64", "ctx": 512}
make_run, make_probe = synthetic["make_run"], synthetic["make_probe"]


def test_runs_are_found_at_any_depth_and_flattened(tmp_path: Path) -> None:
    make_run(tmp_path / "deep" / "model=ttt_mlp", "ttt_mlp", "mamba", "w64", 256, seed=3, steps=4, mini_batch_size=8)
    make_run(tmp_path, "transformer", "transformer", "w128", 512, steps=5, evaluated=False, status="diverged")
    runs = load_results(tmp_path).runs.set_index("model")
    ours = runs.loc["ttt_mlp"]
    assert (ours["backbone"], ours["size"], ours["ctx"], ours["seed"]) == ("mamba", "w64", 256, 3)
    assert (ours["mini_batch_size"], ours["tokens"], ours["status"]) == (8, 4 * 1024, "finished")
    assert Path(ours["run_dir"]).parent == tmp_path / "deep" / "model=ttt_mlp"
    assert runs["mini_batch_size"].isna()["transformer"]
    assert runs.loc["transformer", "status"] == "diverged"


def test_metrics_of_all_runs_are_one_table(tmp_path: Path) -> None:
    make_run(tmp_path, seed=0, steps=4, ctx=8)
    make_run(tmp_path, seed=1, steps=6, ctx=8)
    results = load_results(tmp_path)
    assert list(results.metrics.columns) == SCHEMA.names
    assert len(results.select("train", "loss")) == 4 + 6
    by_position = results.select("validation", "loss", by_position=True)
    assert by_position["position"].tolist() == [*range(1, 9)] * 2
    assert set(by_position["run_id"]) == set(results.runs["run_id"])


def test_values_that_are_not_finite_are_not_selected(tmp_path: Path) -> None:
    make_run(tmp_path, steps=3)
    results = load_results(tmp_path)
    results.metrics.loc[results.metrics["step"] == 2, "value"] = float("nan")
    assert results.select("train", "loss")["step"].tolist() == [1, 3]


def test_an_empty_folder_gives_empty_tables(tmp_path: Path) -> None:
    results = load_results(tmp_path)
    assert results.runs.empty
    assert set(RUN_COLUMNS) < set(results.runs.columns)
    assert results.select("train", "loss").empty


def test_a_run_without_metrics_yet_is_a_run(tmp_path: Path) -> None:
    make_run(tmp_path).metrics.unlink()
    results = load_results(tmp_path)
    assert (len(results.runs), len(results.metrics)) == (1, 0)


def test_measurements_are_columns(tmp_path: Path) -> None:
    measured, _ = make_run(tmp_path, steps=2), make_run(tmp_path, seed=1, steps=2)
    record = json.loads(measured.record.read_text())
    measured.record.write_text(json.dumps(record | {"measurements": {"joules": 3, "seed": 9}}))
    runs = load_results(tmp_path).runs.set_index("seed")
    assert runs["joules"].dropna().to_dict() == {0: 3.0}
    assert runs["joules"].isna().to_dict() == {0: False, 1: True}


def test_a_missing_folder_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_results(tmp_path / "runs")


def test_changed_settings_are_told_apart_except_the_seed(tmp_path: Path) -> None:
    for b in (1, 16):
        for seed in (0, 1):
            make_run(tmp_path, seed=seed, steps=2, mini_batch_size=b)
    make_run(tmp_path, "ttt_mlp", steps=2)
    runs = load_results(tmp_path).runs
    sizes = runs.groupby(["model", "changed"])["seed"].agg(list).to_dict()
    assert sizes == {
        ("ttt_linear", "model.mini_batch_size=1"): [0, 1],
        ("ttt_linear", "model.mini_batch_size=16"): [0, 1],
        ("ttt_mlp", ""): [0],
    }


def test_of_two_folders_of_the_same_run_the_longer_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=3)
    shutil.copytree(run.path, tmp_path / "b")
    short = RunFolder(tmp_path / "b")
    short.record.write_text(short.record.read_text().replace('"steps": 3', '"steps": 2'))
    results = load_results(tmp_path)
    assert results.runs["run_dir"].tolist() == [str(run.path)]
    assert results.left_out == {short.path: run.path}
    assert len(results.select("train", "loss")) == 3


@pytest.mark.parametrize("file", ["record.json", "metrics.parquet", "inner_loss.parquet"])
def test_a_broken_file_of_a_run_is_an_error_or_named_and_left_out(file: str, tmp_path: Path) -> None:
    sound, broken = make_run(tmp_path, steps=2, ctx=8), make_run(tmp_path, seed=1, steps=2, ctx=8)
    for run in (sound, broken):
        make_probe(run, T=8)
    (broken.path / file).write_text("{")
    with pytest.raises(UserError, match=file):
        load_results(tmp_path)
    results = load_results(tmp_path, strict=False)
    assert len(results.unreadable) == 1
    assert str(broken.path / file) in results.unreadable[0]
    tables = {"record.json": results.runs, "metrics.parquet": results.metrics, "inner_loss.parquet": results.inner_loss}
    assert set(tables[file]["run_id"]) == {sound.path.name}
    assert len(results.runs) == (1 if file == "record.json" else 2)


def test_inner_losses_that_cannot_be_converted_are_named(tmp_path: Path) -> None:
    run = make_probe(make_run(tmp_path, steps=2, ctx=8), T=8)
    record = json.loads(run.record.read_text())
    del record["config"]["size"]["heads"]
    run.record.write_text(json.dumps(record))
    results = load_results(tmp_path, strict=False)
    (line,) = results.unreadable
    assert line.startswith(
        f"{run.inner_loss}: its record lacks a setting that converts inner losses (KeyError: 'heads')"
    )
    assert (len(results.runs), len(results.inner_loss)) == (1, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {}}, "model"),
        ({"config": None}, "config"),
        ({"config": {"ctx": {"length": "long"}}}, ""),
        ({"steps": "many"}, "steps='many' is not of type int"),
        ({"steps": None}, "steps=None is not of type int"),
        ({"run_id": None}, "run_id=None is not of type str"),
        ({"results": {"validation": {"loss": "low"}}}, "results.validation.loss='low' is not of type Float64"),
        ({"label": "a label"}, ""),
        ({"label": {"model": "mamba"}}, ""),
        ({"label": LABEL | {"departures": ["norm"]}}, ""),
        ({"identity": "an identity"}, ""),
    ],
    ids=str,
)
def test_a_record_with_values_of_other_types_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    sound, broken = make_run(tmp_path, steps=2), make_run(tmp_path, seed=1, steps=2)
    record = json.loads(broken.record.read_text())
    broken.record.write_text(json.dumps(record | change))
    results = load_results(tmp_path, strict=False)
    assert results.runs["run_id"].tolist() == [sound.path.name]
    assert len(results.unreadable) == 1
    assert results.unreadable[0].startswith(f"{broken.record}: not a run's record")
    assert named in results.unreadable[0]
    assert results.unreadable[0].endswith("restore or remove the run's folder")
    with pytest.raises(UserError, match="not a run's record"):
        load_results(tmp_path)


def test_further_keys_of_a_newer_record_are_no_hindrance(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2)
    record = json.loads(run.record.read_text())
    record |= {"schema_version": 9, "status": "paused", "further": {"a": 1}}
    record["config"] |= {"further": {"b": 2}}
    run.record.write_text(json.dumps(record))
    results = load_results(tmp_path)
    assert results.runs["status"].tolist() == ["paused"]
    assert len(results.select("train", "loss")) == 2


def test_a_broken_benchmark_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, steps=2)
    folder = tmp_path / "bench-x"
    folder.mkdir()
    (folder / "benchmark.json").write_text("[]")
    with pytest.raises(UserError, match="bench-x"):
        load_results(tmp_path)
    results = load_results(tmp_path, strict=False)
    assert (len(results.runs), len(results.benchmarks), len(results.unreadable)) == (1, 0, 1)


def test_a_record_of_version_1_has_its_label_and_outcome_when_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2, status="diverged", mini_batch_size=4)
    record = json.loads(run.record.read_text())
    del record["label"]
    record |= {"schema_version": 1, "status": "failed", "warnings": ["train, layer 1: loss grows"], "of a newer": 1}
    run.record.write_text(json.dumps(record))
    results = load_results(tmp_path, label_of_plain)
    assert results.runs["status"].tolist() == ["diverged"]
    assert results.labels[run.path.name].departures == {"model.mini_batch_size": 4}
