"""Numbers that are used again: SLURM's job numbers and process ids; and clocks that are set back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import planned, write_sacct

from ttt.launch import local
from ttt.launch.cancel import cancel_runs
from ttt.launch.journal import append_lines, local_line, slurm_line
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.slurm import SlurmJob, job_states
from ttt.launch.status import RunStatus, sweep_status

Make = Callable[[list[PlannedRun]], SweepFolder]
Program = Callable[[str, str], None]

HOUR, DAY = 3600, 86400
THEN = int(time.time()) - DAY


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def only(folder: SweepFolder) -> RunStatus:
    (status,) = sweep_status(folder)
    return status


@pytest.mark.parametrize(
    "row",
    [
        ("17", "RUNNING", "Unknown", THEN + HOUR, "six"),
        ("17", "RUNNING", "Unknown", THEN - HOUR, "six"),
        ("17", "RUNNING", "Unknown", THEN, "theirs"),
        ("17_[0-9]", "PENDING", "Unknown", THEN + HOUR, "theirs"),
    ],
    ids=["later", "earlier", "another name", "an array"],
)
def test_a_job_number_that_was_used_again(row: Any, make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    append_lines(folder.jobs, [{**slurm_line(run, "17", "six"), "time": at(THEN)}])
    write_sacct(program, [row])
    assert (only(folder).state, only(folder).detail) == (
        "killed",
        "SLURM has given the number 17 of its job to another job",
    )
    append_lines(folder.jobs, [slurm_line(run, "18", "six")])
    write_sacct(program, [("18", *row[1:])])
    assert only(folder).state == "queued", "accounting may not know a new job yet"


def test_a_job_that_was_queued_again_is_the_same_job(program: Program) -> None:
    """Its second submission has another time; a line of an earlier version has no name."""
    first, second = ("17_1", "PREEMPTED", str(THEN + 60), THEN), ("17_1", "RUNNING", "Unknown", THEN + HOUR)
    other = ("17_1", "FAILED", str(THEN + DAY), THEN - HOUR)
    write_sacct(program, [(*row, "six") for row in (second, other, first)])
    for name in ("six", None):
        job = SlurmJob("17_1", name, THEN + 1)
        assert job_states([job]) == {job: "RUNNING"}


def test_two_jobs_with_one_number(program: Program) -> None:
    old, new = SlurmJob("17", "six", THEN), SlurmJob("17", "six", THEN + HOUR)
    rows = [("17", "FAILED", str(THEN + 9), THEN, "six"), ("17", "RUNNING", "Unknown", THEN + HOUR, "six")]
    write_sacct(program, rows)
    assert job_states([new]) == {new: "RUNNING"}
    write_sacct(program, rows[1:])
    assert job_states([old, new]) == {old: "NUMBER_REUSED", new: "RUNNING"}


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[bytes]"]:
    """Return a process with a child, like the controller of a local job."""
    child = "import time; time.sleep(600)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", program])
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_known_by_its_start_whatever_the_clock_shows(
    worker: "subprocess.Popen[bytes]", make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    line = local_line(run, str(worker.pid))
    assert line["started"]
    append_lines(folder.jobs, [{**line, "time": at(THEN)}])
    # psutil computes the wall-clock time of a start, which moves with the clock.
    monkeypatch.setattr(local.psutil.Process, "create_time", lambda _: time.time() + DAY)
    assert only(folder).state == "running"
    deadline = time.monotonic() + 60
    while not (children := local.psutil.Process(worker.pid).children()):
        assert time.monotonic() < deadline
    cancel_runs(folder, [run.run_id])
    assert only(folder).detail in ("is being cancelled", "")
    children[0].wait(60)
    worker.wait(60)
    assert only(folder).state == "cancelled"


@pytest.mark.parametrize("change", [{"started": 1}, {"machine": "another boot"}], ids=str)
def test_a_process_with_the_same_id_is_not_the_worker(change: Any, make_sweep: Make, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    append_lines(folder.jobs, [{**local_line(run, str(os.getpid())), **change}])
    assert only(folder).state == "killed"


def test_a_clock_that_was_set_back_changes_no_order(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    old, new = slurm_line(run, "17", "six"), slurm_line(run, "18", "six")
    append_lines(folder.jobs, [{**old, "time": at(THEN)}, {**new, "time": at(THEN - HOUR)}])
    write_sacct(program, [("17", "FAILED", "1", THEN, "six"), ("18", "RUNNING", "Unknown", THEN - HOUR, "six")])
    assert (only(folder).state, only(folder).job_id) == ("running", "18")


def test_a_waiting_job_that_is_not_cancelled_yet(make_sweep: Make, program: Program, tmp_path: Path) -> None:
    """As when the command was killed before scancel; another cancel must reach it, and submit must not repeat it."""
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    append_lines(folder.jobs, [{**slurm_line(run, "17", "six"), "ended": "cancelled"}])
    write_sacct(program, [("17", "PENDING", "Unknown", int(time.time()), "six")])
    assert (only(folder).state, only(folder).detail) == ("queued", "is being cancelled")


def test_cancelling_ends_a_worker_that_has_not_started_its_run(make_sweep: Make, tmp_path: Path) -> None:
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    append_lines(folder.jobs, [local_line(run, str(worker.pid))])
    cancel_runs(folder, [run.run_id])
    worker.wait(60)
    assert only(folder).state == "cancelled"
