"""Known runs: the runs of a sweep that lie finished in another folder count as made."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import planned, write_record

from ttt.config.errors import UserError
from ttt.launch.collect import copy_results
from ttt.launch.known import check_same_data, read_known_runs, remember, remembered, trained_again, with_known
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.status import RunStatus


def in_folder(run: PlannedRun, folder: Path, **changes: Any) -> None:
    """Write the record of a finished run into ``folder``, with these keys changed."""
    write_record(replace(run, folder=str(folder / run.run_id)), "finished", 100)
    path = folder / run.run_id / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def states(statuses: list[RunStatus]) -> list[str]:
    return [status.state for status in statuses]


@pytest.mark.parametrize(
    "changes",
    [{"steps": 99}, {"status": "interrupted"}, {"status": "running"}, {"run_id": "run-0009"}],
    ids=str,
)
def test_only_whole_schedules_of_the_same_run_are_known(changes: dict[str, Any], tmp_path: Path) -> None:
    run, other = planned(0, tmp_path / "runs"), planned(1, tmp_path / "runs")
    in_folder(run, tmp_path / "known")
    in_folder(other, tmp_path / "known", **changes)
    assert list(read_known_runs(tmp_path / "known", [run, other])) == [run.run_id]


def test_a_known_run_is_finished_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [planned(number, tmp_path) for number in range(3)]
    in_folder(runs[0], tmp_path / "known")
    before = [RunStatus(runs[0], "failed", "no memory", given_up=True), RunStatus(runs[1], "finished")]
    after = with_known([*before, RunStatus(runs[2])], tmp_path / "known", [run.run_id for run in runs[:2]])
    assert states(after) == ["finished", "finished", "not submitted"]
    assert (after[0].detail, after[0].known, after[0].given_up) == ("in known", tmp_path / "known/run-0000", False)
    assert after[1].known is None, "a run that is finished here is its own source"


@pytest.mark.parametrize("state", ["queued", "waiting", "running"])
def test_a_run_that_waits_or_runs_can_still_be_watched(state: Any, tmp_path: Path) -> None:
    (status,) = with_known([RunStatus(planned(0, tmp_path), state, "why")], tmp_path, ["run-0000"])
    assert (status.state, status.detail) == (state, "why")


@pytest.mark.parametrize(
    ("known", "expected", "again"),
    [
        ([0, 1, 2], ["finished"] * 3, []),
        ([0, 1], ["not submitted", "not submitted", "not submitted"], [0, 1]),
        ([0, 2], ["not submitted", "not submitted", "finished"], [0]),
        ([2], ["not submitted", "not submitted", "finished"], []),
    ],
    ids=str,
)
def test_a_known_parent_is_trained_for_children_that_are_not_made(
    known: list[int], expected: list[str], again: list[int], tmp_path: Path
) -> None:
    runs = [planned(0, tmp_path), planned(1, tmp_path, "run-0000"), planned(2, tmp_path, "run-0001")]
    if known == [0, 2]:
        runs[2] = planned(2, tmp_path, "run-0000")
    for number in known:
        in_folder(runs[number], tmp_path)
    statuses = with_known([RunStatus(run) for run in runs], tmp_path, [f"run-{number:04}" for number in known])
    assert states(statuses) == expected
    assert trained_again(statuses) == [f"run-{number:04}" for number in again]


def test_a_folder_without_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^known=nowhere: no such folder; known=null does without one$"):
        read_known_runs(tmp_path / "nowhere", [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^known=empty: has no runs \(FOLDER/NAME/record.json\)$"):
        read_known_runs(tmp_path / "empty", [])
    in_folder(run := planned(0, tmp_path / "runs"), tmp_path / "known")
    (tmp_path / "known/run-0000/record.json").write_text("{")
    with pytest.raises(UserError, match=r"known/run-0000/record.json: not a run's record .* restore or remove"):
        read_known_runs(tmp_path / "known", [run])


def test_equal_settings_of_different_data_are_refused(tmp_path: Path) -> None:
    runs, known = [planned(number, tmp_path / "runs") for number in range(2)], tmp_path / "known"
    here = {"config": {"data": {"name": "local", "cache_dir": "/here"}}, "data": {"digest": "a" * 64}}
    there = {"config": {"data": {"name": "local", "cache_dir": "there"}}, "data": {"digest": "a" * 64}}
    in_folder(runs[0], known, **there)
    in_folder(runs[1], tmp_path / "runs", **here)
    check_same_data(known, read_known_runs(known, runs), runs)
    in_folder(runs[1], tmp_path / "runs", **here | {"data": {"digest": "b" * 64}})
    records = read_known_runs(known, runs)
    with pytest.raises(UserError, match=r"known: run-0000 and run-0001 .* \(digests a{12} and b{12}\); known=null"):
        check_same_data(known, records, runs)
    in_folder(runs[1], tmp_path / "runs", config={"data": {"name": "other"}}, data={"digest": "b" * 64})
    check_same_data(known, records, runs)


def test_the_folder_is_remembered_until_it_is_forgotten(make_sweep: Callable[..., SweepFolder], tmp_path: Path) -> None:
    folder = make_sweep([planned(0, tmp_path)])
    assert remembered(folder) is None
    remember(folder, tmp_path / "known")
    assert remembered(folder) == tmp_path / "known"
    remember(folder, None)
    assert remembered(folder) is None


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_collecting_adds_to_a_folder_and_leaves_its_runs_alone(tmp_path: Path) -> None:
    runs, out = [planned(number, tmp_path / "runs") for number in range(3)], tmp_path / "out"
    in_folder(planned(7, tmp_path), out, config={"runs": "/as/it/was"})
    in_folder(runs[0], out, config={"runs": "/as/it/was"})
    for run in runs[1:]:
        in_folder(run, tmp_path / "runs", config={"runs": str(tmp_path / "runs")})
    (tmp_path / "runs/run-0001/metrics.parquet").write_text("1")
    before = times(out)
    statuses = with_known([RunStatus(runs[0]), *(RunStatus(run, "finished") for run in runs[1:])], out, ["run-0000"])
    assert copy_results(statuses, out) == []
    after = times(out)
    assert before.items() <= after.items()
    assert sorted(path.parent.name for path in after if path.name == "record.json") == [
        "run-0000", "run-0001", "run-0002", "run-0007",
    ]  # fmt: skip
    assert copy_results(statuses, out) == []
    assert times(out) == after, "equal runs are not written again"
    (tmp_path / "runs/run-0001/metrics.parquet").write_text("2")
    copy_results(statuses, out)
    assert {path.name for path in after if times(out)[path] != after[path]} == {"metrics.parquet"}


def test_known_runs_are_collected_from_their_folder(tmp_path: Path) -> None:
    run = planned(0, tmp_path / "runs")
    in_folder(run, tmp_path / "known", config={"runs": "/of/another"})
    statuses = with_known([RunStatus(run)], tmp_path / "known", [run.run_id])
    copy_results(statuses, tmp_path / "out")
    assert json.loads((tmp_path / "out/run-0000/record.json").read_text())["config"] == {"runs": "another"}


def test_a_finished_copy_of_another_training_is_kept(tmp_path: Path) -> None:
    run, out = planned(0, tmp_path / "runs"), tmp_path / "out"
    timing = {"ended": None, "seconds": None, "tokens_per_second": None}
    in_folder(run, out, timing=timing | {"started": "yesterday"})
    before = times(out)
    in_folder(run, tmp_path / "runs", status="running", steps=3, timing=timing | {"started": "today"})
    (line,) = copy_results([RunStatus(run, "running")], out)
    assert line == f"kept: {out}/run-0000 is another training of this run; remove it to collect {run.folder}"
    assert times(out) == before
    in_folder(run, out, status="failed", timing=timing | {"started": "yesterday"})
    assert copy_results([RunStatus(run, "running")], out) == []
    assert json.loads((out / "run-0000/record.json").read_text())["steps"] == 3


def test_runs_are_known_and_collected_under_any_words(tmp_path: Path) -> None:
    names = [f"mamba-own-w64-512-pycode-seed{number}-0000000{number}" for number in range(3)]
    named = [name.replace("-seed", "-lr0.3-seed") for name in names]
    runs = [replace(planned(n, tmp_path), run_id=names[n], folder=f"{tmp_path}/runs/{named[n]}") for n in range(3)]
    known, out = tmp_path / "known", tmp_path / "out"
    for run, folder in zip(runs, (names[0], named[1]), strict=False):
        write_record(replace(run, folder=str(known / folder)), "finished", 100)
    write_record(runs[2], "finished", 100)
    write_record(replace(runs[2], folder=str(out / names[2])), "interrupted", 50)
    found = read_known_runs(known, runs)
    assert list(found) == names[:2]
    statuses = with_known([*map(RunStatus, runs[:2]), RunStatus(runs[2], "finished")], known, found)
    assert [status.known and status.known.name for status in statuses] == [names[0], named[1], None]
    copy_results(statuses, out)
    assert {path.name for path in out.iterdir()} == {names[0], named[1], names[2]}, "an earlier copy keeps its name"
    assert json.loads((out / names[2] / "record.json").read_text())["steps"] == 100
