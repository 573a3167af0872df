"""The lock of a run's folder: one process writes there at a time, also where several machines share the disk.

``lock.json`` describes the holder, which renews it every few seconds: its heartbeat. The lock of a dead holder is
broken at once if it ran on this machine or in an earlier start of the same cluster job, otherwise after a minute
without a heartbeat. Clocks of machines are not compared. The file is read and written under a file lock of the
operating system, where the disk has working ones, so that only one of several waiting processes gets the folder.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from ttt.config.errors import UserError
from ttt.results.atomic import write_text

LOCK_FILE, GUARD_FILE = "lock.json", ".lock.guard"
LOCK_FILES = (LOCK_FILE, GUARD_FILE)
"""Files of the lock in a folder; neither is part of a run."""

SECONDS_BETWEEN_HEARTBEATS = 5.0
SECONDS_UNTIL_STALE = 60.0
SECONDS_FOR_GUARD = 30.0

Holder = dict[str, Any]
State = dict[str, Any]
"""Content of ``lock.json``: ``holder``, and ``heartbeat``, which counts its renewals."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only this process write ``folder``, which is made if it is missing and removed if it stays empty.

    If another machine breaks the lock, because this process had no heartbeat for a minute, the process exits at once:
    it must not write any more.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
        lock = Lock(folder)
        lock.take()
        try:
            yield
        finally:
            lock.release()
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def holds_other_files(folder: Path) -> bool:
    """Return whether ``folder`` has files besides those of a lock."""
    return any(path.name not in LOCK_FILES for path in folder.iterdir())


class Lock:
    """The lock of ``folder``, which exists."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.holder, self._heartbeat = folder, _this_process(), 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def take(self) -> None:
        """Take the lock, after at most a minute of waiting for another holder's heartbeat.

        Raises:
            UserError: the holder is alive, or the folder cannot be written.
        """
        first, since = None, time.monotonic()
        while not self._taken(first, since):
            if first is None:
                first, since = self._read(), time.monotonic()
            time.sleep(SECONDS_BETWEEN_HEARTBEATS / 2)
        self._thread.start()

    def release(self) -> None:
        """Give the lock up."""
        self._released.set()
        self._thread.join()
        # A folder that was deleted in the meantime has no lock to remove.
        with suppress(UserError), self._guard():
            state = self._read()
            if state is not None and state["holder"] == self.holder:
                (self.folder / LOCK_FILE).unlink()
            # A process that waits for this file notices that it was replaced.
            (self.folder / GUARD_FILE).unlink()

    def _taken(self, first: State | None, since: float) -> bool:
        """Take the lock if it is free or stale; ``first`` is the state seen at ``since``, None at the first look."""
        with self._guard():
            state = self._read()
            if state is not None:
                reason = self._stale_reason(state, first, since)
                if reason is None:
                    if first is None:
                        wait = f"waiting up to {SECONDS_UNTIL_STALE:.0f} s to see whether it is still there"
                        _report(f"{self.folder}: held by {_name(state)}; {wait}")
                    return False
                _report(f"{self.folder}: taken over from {_name(state)}: {reason}")
            self._write()
        return True

    def _stale_reason(self, state: State, first: State | None, since: float) -> str | None:
        """Return why the lock may be broken, or None to keep waiting.

        Raises:
            UserError: the holder is alive.
        """
        theirs, ours = state["holder"], self.holder
        same_machine = theirs["machine"] and theirs["machine"] == ours["machine"]
        if same_machine and _started(theirs["pid"]) != theirs["started"]:
            return "that process has ended"
        if theirs["job"] and theirs["job"] == ours["job"] and theirs["restart"] < ours["restart"]:
            return "its job was started again"
        if same_machine or (first and state != first):
            stop = f"scancel {theirs['job'].partition(' ')[0]}" if theirs["job"] else f"kill {theirs['pid']} there"
            raise UserError(f"{self.folder}: is being written by {_name(state)}; wait for its end, or stop it ({stop})")
        stale = first is not None and time.monotonic() - since >= SECONDS_UNTIL_STALE
        return f"no sign of it for {SECONDS_UNTIL_STALE:.0f} s" if stale else None

    def _renew(self) -> None:
        while not self._released.wait(SECONDS_BETWEEN_HEARTBEATS):
            # A full disk or a deleted folder is reported by the run; the lock tries again.
            with suppress(UserError), self._guard():
                state = self._read()
                if state is not None and state["holder"] != self.holder:
                    _report(f"error: {self.folder}: was taken over by {_name(state)}")
                    os._exit(1)
                self._heartbeat += 1
                self._write()

    def _read(self) -> State | None:
        path = self.folder / LOCK_FILE
        try:
            state: State = json.loads(path.read_text(encoding="utf-8"))
            if not state["holder"].keys() >= self.holder.keys():
                raise ValueError("a key is missing")
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: names no holder ({error}); remove it if nothing writes the folder") from error
        return state

    def _write(self) -> None:
        state = {"holder": self.holder, "heartbeat": self._heartbeat}
        write_text(self.folder / LOCK_FILE, json.dumps(state, indent=2) + "\n")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        # Writing would make a deleted folder again.
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: was deleted; start again")
        try:
            with filelock.FileLock(self.folder / GUARD_FILE, timeout=SECONDS_FOR_GUARD):
                yield
        except (OSError, filelock.Timeout) as error:
            reason = getattr(error, "strerror", None) or "its lock is held too long"
            raise UserError(f"{self.folder}: cannot be written ({reason}); choose another folder") from error


def _this_process() -> Holder:
    pid, job, cluster = os.getpid(), os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_CLUSTER_NAME")
    return {
        "token": uuid.uuid4().hex,  # another one each time that a lock is taken
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),  # tells apart processes that had the same id
        "job": f"{job} of {cluster}" if job and cluster else job,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> str:
    """Return the machine's boot and the container, within which process ids are unique; empty if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return the process's start in ticks of the machine's clock; None if it does not run or this is not known."""
    try:
        # The second field is a name in parentheses, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _name(state: State) -> str:
    holder = state["holder"]
    job = f", SLURM job {holder['job']} (restart {holder['restart']})" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
