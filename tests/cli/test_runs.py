"""``ttt-runs``: the list, one run, two runs, and what it refuses to remove."""

import json
import os
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from ttt.cli.runs import main
from ttt.results.checkpoints import checkpoint_path, write_digest
from ttt.results.lock import locked
from ttt.results.record import RunFolder, read_record, write_record

make_run = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_run"]


def runs_in(folder: Path) -> dict[str, RunFolder]:
    """Make a finished run, one that was stopped early and a child of the first; each has a checkpoint."""
    first = make_run(folder, steps=30, perplexity=40, evaluated=False)
    second = make_run(folder, "ttt_mlp", seed=1, steps=3, steps_planned=30, perplexity=60, mini_batch_size=4)
    child = make_run(folder, "transformer", "transformer", steps=2, perplexity=30, parent=first)
    for run in (first, second, child):
        run.checkpoints.mkdir()
        path = checkpoint_path(run.checkpoints, read_record(run.record)["steps"])
        path.write_bytes(b"x" * 2000)
        write_digest(path, "0")
    return {"first": first, "second": second, "child": child}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    lines = captured.err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("error: ")


def test_runs_are_listed_in_80_columns_with_their_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_in(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/record.json").write_text("{")
    main([f"runs={tmp_path}"])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines[0].split() == ["id", "label", "steps", "tok", "par", "ppl", "age", "disk", "status"]
    stopped = next(line for line in lines if "3/30" in line)
    assert stopped.split()[-1] == "stopped"
    assert stopped.split()[-4] == "60"
    assert lines[-1].startswith(f"{tmp_path}: 3 runs, ")
    assert captured.err.startswith(f"left out: {tmp_path}/broken/record.json: not a run's record")
    main([f"runs={tmp_path}", "--wide"])
    assert "TTT-MLP (M) w128 512 mini_batch_size=4 learning_rate=0.005 seed=1" in capsys.readouterr().out


def test_json_has_an_entry_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_in(tmp_path)
    main([f"runs={tmp_path}", "--json"])
    found: dict[str, Any] = {entry["folder"]: entry for entry in json.loads(capsys.readouterr().out)}
    entry = found[str(runs["second"].path)]
    assert (entry["status"], entry["steps"], entry["steps_planned"]) == ("stopped", 3, 30)
    assert entry["validation_perplexity"] == 60
    files = [path for path in runs["second"].path.rglob("*") if path.is_file()]
    assert entry["bytes"] == sum(path.stat().st_size for path in files)


def test_a_run_that_has_no_process_any_more_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, steps=5, steps_planned=30, evaluated=False, status="running")

    def status() -> str:
        main([f"runs={tmp_path}", "--json"])
        return str(json.loads(capsys.readouterr().out)[0]["status"])

    assert status() == "killed"
    with locked(run.path):
        assert status() == "running"
        state = json.loads((run.path / "lock.json").read_text())
    state["holder"]["started"] = -1
    (run.path / "lock.json").write_text(json.dumps(state))
    assert status() == "killed"


def test_a_run_is_found_by_the_end_of_its_name_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs_in(tmp_path)["second"]
    main(["show", "1-4", f"runs={tmp_path}"])
    text = capsys.readouterr().out
    assert str(run.path) in text
    assert "3 of 30 steps" in text
    assert f"ttt-train run={run.path}" in text
    assert "did you mean" in refused(["show", "ttt_mpl-mamba-w128-512-1-4", f"runs={tmp_path}"], capsys)
    assert "3 runs have this in their names" in refused(["show", "w128", f"runs={tmp_path}"], capsys)


def test_two_runs_are_compared_by_settings_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_in(tmp_path)
    main(["diff", str(runs["first"].path), str(runs["second"].path)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines]
    assert ["model.mini_batch_size", "16", "4"] in words
    assert ["validation", "perplexity", "40", "60"] in words
    assert not any(line.startswith("model.W_init") for line in lines)
    main(["diff", str(runs["first"].path), str(runs["second"].path), "--json"])
    assert json.loads(capsys.readouterr().out)["settings"]["model.mini_batch_size"] == [16, 4]


def test_weights_are_removed_and_the_record_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs_in(tmp_path)["second"]
    assert "asks before it removes" in refused(["rm", str(run.path)], capsys)
    main(["rm", str(run.path), "--yes"])
    assert "removed " in capsys.readouterr().out
    assert list(run.checkpoints.iterdir()) == []
    assert read_record(run.record)["last_checkpoint"] is None
    assert run.metrics.exists()


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("", False)])
def test_removing_asks(answer: str, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs_in(tmp_path)["second"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    main(["rm", str(run.path), "--all"])
    assert run.path.exists() != gone
    assert not list(tmp_path.glob(".*"))


def test_a_folder_in_use_or_with_a_child_is_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_in(tmp_path)
    for more in ([], ["--all"]):
        message = refused(["rm", str(runs["first"].path), "--yes", *more], capsys)
        assert f"{runs['child'].path.name} started from its weights; remove that run first" in message
    with locked(runs["second"].path), pytest.raises(SystemExit):
        main(["rm", str(runs["second"].path), "--yes", "--all"])
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err
    assert all(run.checkpoints.is_dir() for run in runs.values())
    main(["rm", str(runs["first"].path), str(runs["child"].path), "--yes", "--all"])
    assert [path.name for path in tmp_path.iterdir()] == [runs["second"].path.name]


def test_weights_in_a_linked_folder_go_too(tmp_path: Path) -> None:
    run = runs_in(tmp_path / "runs")["second"]
    (tmp_path / "large").mkdir()
    (tmp_path / "large/other").write_text("mine")
    for path in run.checkpoints.iterdir():
        path.rename(tmp_path / "large" / path.name)
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(tmp_path / "large")
    main(["rm", str(run.path), "--yes", "--all"])
    assert not run.path.exists()
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["shw"], "shw: no such command of ttt-runs; choose one of list, show, diff, rm"),
        (["show"], "ttt-runs show: takes 1 run, not 0; ttt-runs lists them"),
        (["diff", "a"], "ttt-runs diff: takes 2 runs, not 1; ttt-runs lists them"),
        (["rm"], "ttt-runs rm: takes at least 1 run, not 0; ttt-runs lists them"),
        (["show", "a", "--all"], "--all: no such flag of ttt-runs show; choose one of --json"),
        (["runs=nowhere"], "runs=nowhere: no such folder; ttt-train makes it"),
    ],
)
def test_mistakes_get_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(words, capsys) == line


def test_a_folder_without_the_label_of_its_record_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, steps=1, evaluated=False)
    content = read_record(run.record)
    content.pop("label")
    write_record(run.record, content)
    main([f"runs={tmp_path}", "--wide"])
    assert "TTT-Linear (M) w128 512" in capsys.readouterr().out
