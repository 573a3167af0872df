"""A run's folder is enough to generate and to export, and evaluation finds the prepared corpus by its digest."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.generate import generate
from ttt.cli.parent import inherited
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig
from ttt.config.generation import GenerateConfig
from ttt.config.schema import EvalConfig
from ttt.launch.collect import copy_results
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus
from ttt.results.origin import data_from_here
from ttt.results.record import RunFolder, read_record


def use(run: Path, out: Path) -> set[str]:
    """Generate text and export the model; return the names of the exported files."""
    generate(GenerateConfig(run=str(run), device="cpu", tokens=3), [])
    export(ExportConfig(run=str(run), out=str(out)), [])
    return {path.name for path in out.iterdir()}


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def test_a_run_is_used_without_its_text_and_its_corpus(run_of_texts: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    run_of_texts.rename(moved)
    shutil.rmtree(tmp_path / "start")
    assert use(moved, tmp_path / "out") == {"model.safetensors", "config.yaml", "tokenizer.json"}
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (moved / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match=r"data.path=texts: does not exist"):
        evaluate(EvalConfig(run=str(moved), device="cpu"), [])


def test_a_touched_text_is_not_prepared_again(
    run_of_texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = record(run_of_texts)["results"]["validation"]
    os.utime(tmp_path / "start/texts/3.txt", (0, 0))
    (tmp_path / "start/texts/4.txt").unlink()
    evaluate(EvalConfig(run=str(run_of_texts), device="cpu"), [])
    assert record(run_of_texts)["results"]["validation"] == before
    assert len([path for path in (tmp_path / "start/cache").iterdir() if path.is_dir()]) == 1
    assert "preparing" not in capsys.readouterr().err


def test_without_the_cache_relative_paths_start_where_the_run_was_started(run_of_texts: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "start/cache")
    evaluate(EvalConfig(run=str(run_of_texts), device="cpu", split="test"), [])
    assert (tmp_path / "start/cache").is_dir()
    assert not list(Path.cwd().iterdir())


def test_a_run_of_an_earlier_version_takes_the_tokenizer_of_its_corpus(
    run_of_texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_of_texts / "tokenizer.json").unlink()
    earlier = record(run_of_texts)
    del earlier["started_in"]
    (run_of_texts / "record.json").write_text(json.dumps(earlier))
    monkeypatch.chdir(tmp_path / "start")
    assert "tokenizer.json" in use(run_of_texts, tmp_path / "out")
    (run_of_texts / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json: is damaged or of another run"):
        use(run_of_texts, tmp_path / "other")


def test_paths_in_the_record_start_where_the_run_was_started(run_of_texts: Path, tmp_path: Path) -> None:
    parent = read_record(RunFolder(run_of_texts).record)
    overrides = inherited(parent["config"] | {"data": data_from_here(parent)}, ["model", "size", "backbone", "ctx"])
    assert f"++data.path='{tmp_path}/start/texts'" in overrides
    for value in ("~/texts", "/texts", None):
        parent["config"]["data"]["path"] = value
        assert data_from_here(parent)["path"] == value
    planned = PlannedRun("run", str(run_of_texts), (), None, 2, 256)
    copy_results([RunStatus(planned, "finished", None, 2, None)], tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out/run/record.json").read_text()
