"""Only one process at a time writes a folder, even if processes die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.config.errors import UserError
from ttt.results import lock
from ttt.results.lock import LOCK_FILE, locked

DEADLINE = 120.0
HOLD = """
import sys, time
from pathlib import Path
from ttt.results import lock
lock.SECONDS_BETWEEN_HEARTBEATS, lock.SECONDS_UNTIL_STALE = 0.05, 1.0
folder, machine = Path(sys.argv[1]), sys.argv[2]
if machine:
    lock.machine_id = lambda: machine
with lock.locked(folder):
    (folder / "held").write_text("by one")
    while not (folder / "let go").exists():
        time.sleep(0.01)
    print("let go")
"""
"""Holds the lock of a folder until a file appears; as if on another machine, if one is named."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SECONDS_BETWEEN_HEARTBEATS", 0.05)
    monkeypatch.setattr(lock, "SECONDS_UNTIL_STALE", 1.0)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def start(folder: Path, machine: str = "", **environment: str) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), machine]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True)
    wait_for((folder / "held").exists, process)
    (folder / "held").unlink()
    return process


def holder(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / LOCK_FILE).read_text())["holder"]
    return found


def test_the_holder_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    folder = tmp_path / "runs/run"
    with locked(folder):
        named = holder(folder)
        assert (named["pid"], named["job"], named["restart"]) == (os.getpid(), "17", 2)
        with pytest.raises(UserError) as refused, locked(folder):
            pass
        line = str(refused.value)
        assert line.startswith(f"{folder}: is being written by process {os.getpid()} on ")
        assert "SLURM job 17 (restart 2), since 20" in line
        assert line.endswith("wait for its end, or stop it (scancel 17)")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_also_releases_the_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path):
            (tmp_path / "work").touch()
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_killed_holder_is_replaced_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(tmp_path)
    with pytest.raises(UserError, match=rf"is being written by process {process.pid} .*\(kill {process.pid} there\)"):
        locked(tmp_path).__enter__()
    process.kill()
    # Not waited for, so that the ended process is still in the process table.
    wait_for(lambda: lock.start_ticks(process.pid) is None)
    with locked(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()
    errors = capsys.readouterr().err
    assert f"taken over from process {process.pid}" in errors
    assert "that process has ended" in errors
    assert "no heartbeat" not in errors
    process.communicate()


def test_another_process_with_the_same_id_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        state = json.loads((tmp_path / LOCK_FILE).read_text())
    state["holder"]["started"] += 1
    (tmp_path / LOCK_FILE).write_text(json.dumps(state))
    with locked(tmp_path):
        pass
    assert "that process has ended" in capsys.readouterr().err


@pytest.mark.slow
def test_a_holder_on_another_machine_is_alive_while_it_has_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tmp_path, "another machine")
    # Long enough for a heartbeat on any machine.
    monkeypatch.setattr(lock, "SECONDS_UNTIL_STALE", DEADLINE)
    with pytest.raises(UserError, match=f"is being written by process {process.pid}"):
        locked(tmp_path).__enter__()
    assert "for its heartbeat" in capsys.readouterr().err
    process.kill()
    process.communicate()
    monkeypatch.setattr(lock, "SECONDS_UNTIL_STALE", 1.0)
    with locked(tmp_path):
        pass
    assert "no heartbeat for 1 s" in capsys.readouterr().err


def test_a_job_that_starts_again_takes_its_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(tmp_path, "another machine", SLURM_JOB_ID="17", SLURM_RESTART_COUNT="1")
    process.kill()
    process.communicate()
    monkeypatch.setattr(lock, "SECONDS_UNTIL_STALE", 1000.0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with locked(tmp_path):
        pass
    assert "its job was started again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_lost_its_lock_writes_nothing_more(tmp_path: Path) -> None:
    """The process was suspended for a minute on another machine."""
    process = start(tmp_path, "another machine")
    process.send_signal(signal.SIGSTOP)
    with locked(tmp_path):
        process.send_signal(signal.SIGCONT)
        assert process.wait(DEADLINE) == 1
        assert holder(tmp_path)["pid"] == os.getpid()
    output, errors = process.communicate()
    assert output == ""
    assert f"was taken over by process {os.getpid()}" in errors


@pytest.mark.slow
def test_only_one_of_several_processes_takes_a_stale_lock(tmp_path: Path) -> None:
    dead = start(tmp_path)
    dead.kill()
    dead.communicate()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(tmp_path), ""]
    takers = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(6)]
    wait_for(lambda: sum(taker.poll() is None for taker in takers) == 1)
    (tmp_path / "let go").touch()
    outputs = [taker.communicate(timeout=DEADLINE) for taker in takers]
    assert [output for output, _ in outputs if output] == ["let go\n"]
    assert sum("taken over from" in errors for _, errors in outputs) == 1
    assert sum("is being written by" in errors for _, errors in outputs) == 5


def test_a_deleted_folder_is_not_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with locked(folder):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        time.sleep(5 * lock.SECONDS_BETWEEN_HEARTBEATS)
        assert not folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 300], ids=["cut to nothing", "zeros"])
def test_a_lock_that_a_power_failure_has_emptied_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with locked(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: {tmp_path}/lock.json: is empty, as after a power failure; it is ignored"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: cannot be written \(Not a directory\)"):
        locked(tmp_path / "file/run").__enter__()
    (tmp_path / LOCK_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"lock.json: names no holder"):
        locked(tmp_path).__enter__()
