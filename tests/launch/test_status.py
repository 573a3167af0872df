"""The status of a sweep's runs, from records, job ends and a stand-in for sacct."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from sweep_cases import planned, write_record, write_sacct

from ttt.cli.sweep.tables import status_table
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.launch.journal import append_lines, read_lines
from ttt.launch.plan import Plan, PlannedRun, SweepFolder, freeze
from ttt.launch.status import BROKEN, RunStatus, sweep_status

Make = Callable[[list[PlannedRun]], SweepFolder]
Program = Callable[[str, str], None]

LONG_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def submitted(folder: SweepFolder, run: PlannedRun, job_id: str, **more: Any) -> None:
    append_lines(folder.jobs, [{"run_id": run.run_id, "job_id": job_id, "executor": "slurm", "time": LONG_AGO, **more}])


def ended(folder: SweepFolder, run: PlannedRun, job_id: str, status: str, error: str | None) -> None:
    line = {"job_id": job_id, "restart": 0, "status": status, "error": error, "time": LONG_AGO}
    append_lines(folder.ends(run.run_id), [line])


def sacct(program: Program, states: dict[str, str], end: str = "Unknown", submit: float | None = None) -> None:
    when = int(datetime.fromisoformat(LONG_AGO).timestamp() if submit is None else submit)
    write_sacct(program, [(job, state, end, when, "six") for job, state in states.items()])


def only(folder: SweepFolder) -> RunStatus:
    (status,) = sweep_status(folder)
    return status


@pytest.mark.parametrize(
    ("slurm_state", "state", "detail"),
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
def test_slurm_states_and_run_states(
    slurm_state: str, state: str, detail: str, make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": slurm_state})
    assert (only(folder).state, only(folder).detail) == (state, detail)


def test_a_run_that_has_no_job(make_sweep: Make, tmp_path: Path) -> None:
    assert only(make_sweep([planned(0, tmp_path)])).state == "not submitted"


def test_progress_is_read_from_the_record(make_sweep: Make, program: Program, tmp_path: Path) -> None:
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
def test_a_failed_run_shows_the_reason(status: str, make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17_3")
    sacct(program, {"17_3": "FAILED"})
    ended(folder, run, "17_3", status, "loss diverged at step 3")
    assert (only(folder).state, only(folder).detail) == (status, "loss diverged at step 3")


def test_a_run_that_diverged_is_shown_as_such_and_counts_as_a_failure(
    make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    run, error = planned(0, tmp_path), "the loss became nan at step 3"
    folder = make_sweep([run])
    write_record(run, "diverged", steps=3)
    for number in range(3):
        assert not only(folder).given_up
        submitted(folder, run, str(number))
        ended(folder, run, str(number), "diverged", error)
        sacct(program, {str(number): "FAILED" for number in range(number + 1)})
    assert (only(folder).state, only(folder).detail, only(folder).given_up) == ("diverged", error, True)
    assert "diverged" in BROKEN
    assert status_table([only(folder)]).endswith("1 run: 1 diverged")
    submitted(folder, run, "3")
    ended(folder, run, "3", "failed", "another process writes the folder")
    sacct(program, {str(number): "FAILED" for number in range(4)})
    assert (only(folder).state, only(folder).given_up) == ("failed", False)


def test_a_finished_run_whose_folder_is_gone(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": "COMPLETED"})
    ended(folder, run, "17", "finished", None)
    assert only(folder).state == "deleted"


def test_a_job_that_accounting_does_not_know(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    sacct(program, {})
    submitted(folder, run, "17")
    assert (only(folder).state, only(folder).detail) == ("killed", "SLURM does not know its job")
    submitted(folder, run, "18", time=datetime.now(UTC).isoformat())
    assert only(folder).state == "queued"


def test_a_job_that_slurm_is_requeueing(make_sweep: Make, program: Program, tmp_path: Path) -> None:
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


def calls_for_status(runs: int, make_sweep: Make, program: Program, folder: Path) -> int:
    """Return the number of function calls for the status of ``runs`` runs and its table."""
    planned_runs = [planned(number, folder) for number in range(runs)]
    sweep = make_sweep(planned_runs)
    started = runs * 9 // 10
    for number, run in enumerate(planned_runs):
        submitted(sweep, run, f"17_{number}")
        if number < started:
            write_record(run, "finished" if number % 2 else "running", 100)
    sacct(program, {f"17_{i}": "RUNNING" for i in range(started)} | {f"17_[{started}-{runs - 1}%8]": "PENDING"})
    table, calls = "", 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        table = status_table(sweep_status(sweep))
    finally:
        sys.setprofile(None)
    half = started // 2
    assert table.endswith(f"{runs} runs: {half} running, {half} finished, {runs - started} queued")
    shutil.rmtree(sweep.path)
    return calls


@pytest.mark.slow
def test_the_work_for_a_status_grows_no_faster_than_the_number_of_runs(
    make_sweep: Make, program: Program, tmp_path: Path
) -> None:
    few, many = (calls_for_status(runs, make_sweep, program, tmp_path / str(runs)) for runs in (20, 200))
    assert many < 10 * few


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "sys.exit('Slurm accounting storage is disabled')",
            "accounting storage is disabled; job states need SLURM's accounting",
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


def test_a_job_that_could_not_record_its_end_on_a_full_disk(
    make_sweep: Make, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    submitted(folder, run, "17")
    sacct(program, {"17": "FAILED"})
    monkeypatch.setattr("ttt.launch.status.disk_usage", lambda _: SimpleNamespace(free=4096))
    assert (only(folder).state, only(folder).detail) == (
        "killed",
        f"the disk of {folder.path} is full; free some space, then retry",
    )


def test_no_sweep_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan.json: cannot be read .*ttt-sweep submit"):
        sweep_status(SweepFolder(tmp_path))


def test_lines_are_added_whole_even_after_an_incomplete_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    append_lines(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_lines(path) == [{"a": 1}]
    append_lines(path, [{"a": 2}])
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": ')
    append_lines(path, [{"a": 3}])
    assert read_lines(path) == [{"a": 3}]


def test_a_disk_that_fills_within_a_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom ttt.launch.journal import append_lines\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "append_lines(Path(sys.argv[1]), [{'a': 'longer than this'}])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert "lines.jsonl: cannot be written (No space left on device); free disk space" in done.stderr


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


def test_runs_are_distinguished_by_overrides_that_are_not_in_their_ids(tmp_path: Path) -> None:
    rates = ("1e-3", "1e-2")
    runs = [
        planned(i, tmp_path, overrides=("size=w64", f"seed={i}", f"recipe.learning_rate={rate}"))
        for i, rate in enumerate(rates)
    ]
    lines = status_table([RunStatus(run) for run in runs]).splitlines()
    assert lines[1].startswith("run-0000 recipe.learning_rate=1e-3  not submitted")
    assert lines[2].startswith("run-0001 recipe.learning_rate=1e-2  not submitted")
