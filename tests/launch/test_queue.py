"""The queue of a sweep on this machine."""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from filelock import FileLock
from sweep_cases import planned

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.launch import queue
from ttt.launch.journal import append_lines, local_line
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.resources import Resources
from ttt.launch.status import sweep_status

Make = Callable[[list[PlannedRun]], SweepFolder]


class Started:
    """Stands in for the queue process: it holds its lock after a while, or ends with ``code``."""

    def __init__(self, folder: SweepFolder, code: int | None) -> None:
        self.lock, self.code, self.polls = queue.queue_lock(folder), code, 0

    def poll(self) -> int | None:
        self.polls += 1
        if self.code is None and self.polls == 3:
            self.lock.acquire()
        return self.code


def start(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, code: int | None) -> tuple[Started, dict[str, str]]:
    process, environment = Started(folder, code), dict[str, str]()

    def popen(*_: Any, env: dict[str, str], **__: Any) -> Started:
        environment.update(env)
        return process

    monkeypatch.setattr(queue.subprocess, "Popen", popen)
    monkeypatch.setattr(queue, "START_POLL_S", 0)
    queue.start_queue(folder, ClusterConfig(name="here", environment={"A": "1"}))
    return process, environment


def test_the_queue_passes_on_nothing_of_the_job_that_starts_it(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an interactive job of SLURM in which a user runs a sweep."""
    monkeypatch.setenv("SLURM_NTASKS", "8")
    process, environment = start(make_sweep([planned(0, tmp_path)]), monkeypatch, None)
    process.lock.release()
    assert "SLURM_NTASKS" not in environment
    assert environment["A"] == "1"
    assert os.environ["SLURM_NTASKS"] == "8"


def test_runs_are_queued_as_soon_as_the_command_returns(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process needs seconds to start; a second submission in this time must not submit its runs again."""
    run = planned(0, tmp_path)
    folder = make_sweep([run])
    append_lines(folder.jobs, [local_line(run)])
    process, _ = start(folder, monkeypatch, None)
    assert sweep_status(folder)[0].state == "queued"
    process.lock.release()


def test_a_queue_process_that_ends_is_named(make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"queue\.log: the queue process ended"):
        start(make_sweep([planned(0, tmp_path)]), monkeypatch, 1)


def test_a_queue_process_starts_while_a_status_command_tests_its_lock(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sweep([planned(0, tmp_path)])
    # Released by another thread.
    tested = FileLock(queue.queue_lock(folder).lock_file, thread_local=False)
    tested.acquire()
    Timer(0.2, tested.release).start()
    steps: list[SweepFolder] = []
    monkeypatch.setattr(queue.sys, "argv", ["queue", str(folder.path)])
    monkeypatch.setattr(queue, "POLL_S", 0)
    monkeypatch.setattr(queue, "read_resources", lambda _: Resources(ClusterConfig(name="here", setup=["true"])))
    monkeypatch.setattr(queue, "_start_runs", lambda folder, *_: steps.append(folder))
    queue.main()
    assert [step.path for step in steps] == [folder.path]
