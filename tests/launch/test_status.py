"""What a sweep says of its runs, from records, ends and the words of a stand-in for sacct."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import planned, write_record

from ttt.cli.sweep.tables import status_table
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.launch.journal import append, read
from ttt.launch.plan import Plan, PlannedRun, SweepFolder, freeze
from ttt.launch.status import RunStatus, sweep_status

Make = Callable[[list[PlannedRun]], SweepFolder]
Program = Callable[[str, str], None]

LONG_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def submitted(folder: SweepFolder, run: PlannedRun, job_id: str, **more: Any) -> None:
    append(folder.jobs, [{"run_id": run.run_id, "job_id": job_id, "executor": "slurm", "time": LONG_AGO, **more}])


def ended(folder: SweepFolder, run: PlannedRun, job_id: str, status: str, error: str | None) -> None:
    line = {"job_id": job_id, "restart": 0, "status": status, "error": error, "time": LONG_AGO}
    append(folder.ends(run.run_id), [line])


def sacct(program: Program, states: dict[str, str], end: str = "Unknown") -> None:
    lines = "\n".join(["JobID|State|End", *(f"{job}|{state}|{end}" for job, state in states.items())])
    program("sacct", f"print({lines!r})")


def only(folder: SweepFolder) -> RunStatus:
    (status,) = sweep_status(folder)
    return status


@pytest.mark.parametrize(
    ("word", "state", "detail"),
    [
        ("PENDING", "queued", ""),
        ("REQUEUED", "queued", ""),
        ("SUSPENDED", "queued", ""),
        ("RUNNING", "running", ""),
        ("COMPLETING", "running", ""),
        ("FAILED", "killed", ""),
        ("TIMEOUT", "timed out", "more often than slurm.requeues allows"),
        ("PREEMPTED", "preempted", "and not queued again by SLURM"),
        ("OUT_OF_MEMORY", "killed", "out of memory; retry with slurm.mem_gb=MORE"),
        ("NODE_FAIL", "killed", "its node failed"),
        ("CANCELLED by 1000", "cancelled", ""),
    ],
)
def test_slurms_words_and_ours(
    word: str, state: str, detail: str, make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": word})
    assert (only(folder).state, only(folder).detail) == (state, detail)


def test_a_run_that_has_no_job(make_sweep: Make, tmp_path: Path) -> None:
    assert only(make_sweep([planned(0, tmp_path)])).state == "not submitted"


def test_how_far_a_run_is(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17_3")
    sacct(program, {"17_3": "RUNNING"})
    write_record(run, "running", steps=60, rate=500.0)
    status = only(folder)
    assert (status.state, status.steps, status.tokens_per_second, status.seconds_left) == ("running", 60, 500.0, 80.0)
    assert "running  60/100       500  1m20s" in status_table([status])


def test_a_finished_run_needs_no_job(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    program("sacct", "sys.exit(1)")
    write_record(run, "finished", steps=100)
    assert (only(folder).state, only(folder).detail) == ("finished", "validation perplexity 12.35")


def test_a_run_that_was_stopped_early_on_purpose_is_not_finished(make_sweep: Make, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    write_record(run, "finished", steps=50)
    assert only(folder).state == "not submitted"


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_failed_run_says_why(status: str, make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17_3")
    sacct(program, {"17_3": "FAILED"})
    ended(folder, run, "17_3", status, "loss diverged at step 3")
    assert (only(folder).state, only(folder).detail) == (status, "loss diverged at step 3")


def test_a_finished_run_whose_folder_is_gone(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": "COMPLETED"})
    ended(folder, run, "17", "finished", None)
    assert only(folder).state == "deleted"


def test_a_job_that_accounting_has_not_heard_of(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    sacct(program, {})
    submitted(folder, run, "17")
    assert (only(folder).state, only(folder).detail) == ("killed", "SLURM does not know its job")
    submitted(folder, run, "18", time=datetime.now(UTC).isoformat())
    assert only(folder).state == "queued"


def test_a_job_that_slurm_is_putting_back_into_its_queue(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": "PREEMPTED"}, end=str(int(time.time()) - 5))
    assert only(folder).state == "queued"
    sacct(program, {"17": "PREEMPTED"}, end=str(int(time.time()) - 500))
    assert only(folder).state == "preempted"


def test_a_child_waits_for_its_parent_and_is_orphaned_without_it(
    make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    parent = planned(0, tmp_path)
    child = planned(1, tmp_path, parent.run_id)
    folder = make_sweep([parent, child])
    for job_id, run in (("17", parent), ("18", child)):
        submitted(folder, run, job_id)
    sacct(program, {"17": "RUNNING", "18": "PENDING"})
    assert [status.state for status in sweep_status(folder)] == ["running", "waiting"]
    sacct(program, {"17": "FAILED", "18": "CANCELLED"})
    assert [status.state for status in sweep_status(folder)] == ["killed", "orphaned"]


def test_what_the_user_cancelled_is_not_broken(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    submitted(folder, run, "17", ended="cancelled")
    sacct(program, {"17": "COMPLETING"})
    assert (only(folder).state, only(folder).detail) == ("running", "is being cancelled")
    sacct(program, {"17": "FAILED"})
    assert only(folder).state == "cancelled"


@pytest.mark.parametrize(
    ("errors", "given_up"),
    [(["a", "a"], False), (["a", "a", "a"], True), (["b", "a", "a"], False), (["b", "a", "a", "a"], True)],
)
def test_three_equal_failures_are_enough(
    errors: list[str], given_up: bool, make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    for number, error in enumerate(errors):
        submitted(folder, run, str(number))
        ended(folder, run, str(number), "failed", error)
    sacct(program, {str(number): "FAILED" for number in range(len(errors))})
    assert only(folder).given_up is given_up


def test_a_thousand_runs_take_under_two_seconds(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    runs = [planned(number, tmp_path) for number in range(1000)]
    folder = make_sweep(runs)
    for number, run in enumerate(runs):
        submitted(folder, run, f"17_{number}")
        if number < 900:
            write_record(run, "finished" if number % 2 else "running", 100)
    sacct(program, {f"17_{i}": "RUNNING" for i in range(900)} | {"17_[900-999%8]": "PENDING"})
    started = time.process_time()
    statuses = sweep_status(folder)
    table = status_table(statuses)
    assert time.process_time() - started < 2
    assert table.endswith("1000 runs: 450 running, 450 finished, 100 queued")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "sys.exit('Slurm accounting storage is disabled')",
            "accounting storage is disabled; states of jobs need SLURM's accounting",
        ),
        (
            "sys.exit('sacct: error: Problem talking to the database')",
            "Problem talking to the database; try again",
        ),
        (None, "no sacct on this machine; run this where SLURM's commands are"),
    ],
)
def test_without_accounting_there_is_one_line(
    text: str | None, line: str, make_sweep: Make, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    before = folder.jobs.read_bytes()
    if text is None:
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        program("sacct", text)
    with pytest.raises(UserError) as error:
        sweep_status(folder)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert folder.jobs.read_bytes() == before


def test_no_sweep_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan.json: cannot be read .*ttt-sweep submit"):
        sweep_status(SweepFolder(tmp_path))


def test_lines_are_added_whole_even_after_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    append(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read(path) == [{"a": 1}]
    append(path, [{"a": 2}])
    with pytest.raises(UserError, match="a line is not JSON"):
        read(path)


def test_sweeps_side_by_side_see_each_others_jobs(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    shared, own = planned(0, tmp_path), planned(1, tmp_path)
    first = make_sweep([shared])
    second = SweepFolder(tmp_path / "second")
    freeze(Plan("second", [shared, own], {run.run_id: TrainConfig() for run in (shared, own)}), second)
    submitted(first, shared, "17")
    sacct(program, {"17": "RUNNING"})
    statuses = sweep_status(second)
    assert [(status.state, status.job_id, status.elsewhere) for status in statuses] == [
        ("running", "17", first.path),
        ("not submitted", "", None),
    ]
    assert "(in sweep)" in status_table(statuses)
    ended(first, shared, "17", "failed", "no memory")
    sacct(program, {"17": "FAILED"})
    assert [status.detail for status in sweep_status(second)] == ["no memory", ""]
    submitted(second, shared, "18", time=datetime.now(UTC).isoformat())
    sacct(program, {"17": "FAILED", "18": "PENDING"})
    assert [status.state for status in sweep_status(first)] == ["queued"]


def test_runs_in_other_folders_are_other_runs(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    first = make_sweep([run])
    second = SweepFolder(tmp_path / "second")
    freeze(Plan("second", [replace(run, folder="/elsewhere")], {run.run_id: TrainConfig()}), second)
    submitted(first, run, "17")
    sacct(program, {"17": "RUNNING"})
    assert only(second).state == "not submitted"


def test_runs_are_told_apart_by_what_their_ids_do_not_say(tmp_path: Path) -> None:
    rates = ("1e-3", "1e-2")
    runs = [
        planned(i, tmp_path, overrides=("size=s1", f"seed={i}", f"recipe.learning_rate={rate}"))
        for i, rate in enumerate(rates)
    ]
    lines = status_table([RunStatus(run, "not submitted") for run in runs]).splitlines()
    assert lines[1].startswith("run-0000 recipe.learning_rate=1e-3  not submitted")
    assert lines[2].startswith("run-0001 recipe.learning_rate=1e-2  not submitted")
