"""A submission that is killed at any moment is finished by the same command, and no run is submitted twice."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission
from sweep_cases import planned, write_record

from ttt.cli.sweep.request import Request
from ttt.cli.sweep.submit import submit
from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.config.schema import TrainConfig
from ttt.launch import plan as planning
from ttt.launch import queue
from ttt.launch.cancel import cancel_runs
from ttt.launch.collect import copy_results
from ttt.launch.job import make_job
from ttt.launch.journal import append_lines, local_line, read_lines
from ttt.launch.plan import Plan, PlannedRun, SweepFolder, read_origin
from ttt.launch.recover import SUBMITTED, read_jobs
from ttt.launch.resources import Resources, write_resources
from ttt.launch.status import RunStatus, sweep_status

Make = Callable[[list[PlannedRun]], SweepFolder]

SBATCH = 'n=$(($(cat {0}/number) + 1)); echo $n > {0}/number; echo "Submitted batch job $n"'
SACCT = (
    'echo "JobID|State|End|Submit|JobName"; for i in $(seq $(cat {0}/number)); do\n'
    'echo "$i|PENDING|Unknown|{1}|six"; echo "${{i}}_[0-9]|PENDING|Unknown|{1}|six"; done'
)


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that submits two runs to a stand-in for SLURM that never starts them."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("sacct", SACCT), ("srun", "")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text.format(tmp_path, int(time.time()))}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(planning, "git_state", lambda: None)
    monkeypatch.setattr(planning, "versions", dict)
    runs = [planned(number, tmp_path) for number in range(2)]
    request = Request("submit", {"slurm": "a100", "folder": f"{tmp_path}/sweep"})
    plan = Plan("six", runs, {run.run_id: TrainConfig() for run in runs})
    return lambda: submit(request, lambda _: plan)


def killed_before(operation: int, command: Callable[[], None]) -> bool:
    """Run the command in a fork that is killed before this file operation; return whether it was killed."""
    child = os.fork()
    if not child:
        left = operation

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return function(*arguments, **more)

            return call

        for name in ("mkdir", "replace", "rename", "symlink_to", "unlink"):
            setattr(Path, name, counted(getattr(Path, name)))
        os.fsync, subprocess.Popen.__init__ = counted(os.fsync), counted(subprocess.Popen.__init__)  # type: ignore[method-assign]
        code = 1
        try:
            command()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
def test_killed_before_each_file_operation(
    send: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    for number in range(200):
        shutil.rmtree(folder.path, ignore_errors=True)
        (tmp_path / "number").write_text("0")
        killed = killed_before(number, send)
        capsys.readouterr()
        send()
        started = [DelayedSubmission.load(path).function.config.stem for path in folder.submitit.glob(f"*{SUBMITTED}")]
        assert sorted(started) == ["run-0000", "run-0001"], number
        assert sorted(line["run_id"] for line in read_jobs(folder)) == sorted(started), number
        assert {status.state for status in sweep_status(folder)} == {"queued"}, number
        capsys.readouterr()
        send()
        assert capsys.readouterr().out.startswith("0 submitted, 2 were queued"), number
        if not killed:
            break
    assert number > 20


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_collecting_that_is_killed_before_each_file_operation(tmp_path: Path) -> None:
    """Collecting again gives the same files, also over an earlier copy."""
    run = planned(0, tmp_path / "runs")
    statuses = [RunStatus(run)]

    def trained(steps: int) -> None:
        write_record(run, "finished" if steps == 100 else "running", steps)
        (Path(run.folder) / "metrics.parquet").write_text(f"of {steps} steps")

    trained(100)
    copy_results(statuses, tmp_path / "whole")
    whole, out = files_of(tmp_path / "whole"), tmp_path / "out"
    for number in range(100):
        shutil.rmtree(out, ignore_errors=True)
        if number % 2:
            trained(50)
            copy_results(statuses, out)
            trained(100)
        killed = killed_before(number // 2, lambda: copy_results(statuses, out))
        copy_results(statuses, out)
        assert files_of(out) == whole, number
        if not killed and number % 2:
            break
    assert number > 10


@pytest.mark.slow
def test_cancelling_that_is_killed_before_each_file_operation(send: Callable[[], None], tmp_path: Path) -> None:
    folder, runs = SweepFolder(tmp_path / "sweep"), ["run-0000", "run-0001"]
    (tmp_path / "bin/scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    (tmp_path / "bin/scancel").chmod(0o755)
    for number in range(100):
        shutil.rmtree(folder.path, ignore_errors=True)
        (tmp_path / "number").write_text("0")
        send()
        killed = killed_before(number, lambda: cancel_runs(folder, runs))
        (tmp_path / "cancelled").unlink(missing_ok=True)
        cancel_runs(folder, runs)
        jobs = sorted(line["job_id"] for line in read_jobs(folder)[:2])
        assert sorted((tmp_path / "cancelled").read_text().split()) == jobs, number
        if not killed:
            break
    assert number > 1


def test_a_submission_to_a_full_disk_is_one_line_and_the_same_command_finishes_it(
    send: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "number").write_text("0")
    with monkeypatch.context() as patch:
        patch.setattr(DelayedSubmission, "dump", full)
        line = f"^{tmp_path}/sweep/submitit: cannot be written .No space left on device.; free disk space"
        with pytest.raises(UserError, match=line):
            send()
    capsys.readouterr()
    send()
    assert "job 1: 2 runs" in capsys.readouterr().out


def test_a_queue_that_is_killed_before_it_records_a_process(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [planned(number, tmp_path) for number in range(2)]
    folder = make_sweep(runs)
    write_resources(folder, Resources(ClusterConfig(name="here", executor="local", parallel=2)))
    append_lines(folder.jobs, [local_line(run) for run in runs])
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder.submitit.mkdir()
    job = make_job(folder, runs[0], read_origin(folder), "local")
    DelayedSubmission(job).dump(folder.submitit / f"{process.pid}{SUBMITTED}")
    tried: list[str] = []
    monkeypatch.setattr(queue, "_executor", lambda _, __, slot, ___, ____: tried.append(slot) or sys.exit(9))
    with queue.queue_lock(folder):
        assert [status.state for status in sweep_status(folder)] == ["running", "queued"]
        with pytest.raises(SystemExit):
            queue._start_runs(folder, {}, None)
    assert tried == [1], "only the run that waits, beside the one that the lost queue has started"
    assert len(read_lines(folder.jobs)) == 2
    cancel_runs(folder, ["run-0000"])
    process.wait(60)
    assert sweep_status(folder)[0].state == "cancelled"
