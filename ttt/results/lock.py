"""The lock of a run's folder: only one process writes there at a time, even if several machines share the disk.

``lock.json`` describes the holder, which renews the file every few seconds: its heartbeat. The lock of a dead holder is
broken at once if it ran on this machine or in an earlier start of the same cluster job, otherwise after a minute
without a heartbeat. The clocks of machines are not compared. The file is read and written under a file lock of the
operating system, if the disk supports it, so that only one of several waiting processes gets the folder.
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
from ttt.results.processes import machine_id, start_ticks

LOCK_FILE, GUARD_FILE = "lock.json", ".lock.guard"
LOCK_FILES = (LOCK_FILE, GUARD_FILE)
"""Files of a lock; they are not part of a run."""

SECONDS_BETWEEN_HEARTBEATS = 5.0
SECONDS_UNTIL_STALE = 60.0
SECONDS_FOR_GUARD = 30.0


class HeldError(UserError):
    """The lock is held by another process that is alive."""


Holder = dict[str, Any]
State = dict[str, Any]
"""Content of ``lock.json``: ``holder``, and ``heartbeat``, which counts its renewals."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, which is created if it is missing and removed if it remains empty.

    If another machine breaks the lock, because this process had no heartbeat for a minute, this process exits at once,
    because it must not write any more.

    Raises:
        HeldError: another process holds the lock.
        UserError: the folder cannot be written.
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


def held_by(folder: Path) -> str | None:
    """Return the process that holds the lock of ``folder``; None: none does, or it has ended on this machine.

    Whether a process on another machine is alive is not known: it counts as alive.

    Raises:
        UserError: the file of the lock is broken.
    """
    lock = Lock(folder)
    state = lock._read()
    if state is None:
        return None
    holder = state["holder"]
    here = holder["machine"] and holder["machine"] == lock.holder["machine"]
    return None if here and start_ticks(holder["pid"]) != holder["started"] else _name(state)


class Lock:
    """The lock of ``folder``, which must exist."""

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
        """Release the lock."""
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
        """Take the lock if it is free or stale; ``first`` is the state at ``since``, None before the first read."""
        with self._guard():
            state = self._read()
            if state is not None:
                reason = self._stale_reason(state, first, since)
                if reason is None:
                    if first is None:
                        wait = f"waiting up to {SECONDS_UNTIL_STALE:.0f} s for its heartbeat"
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
        holder, ours = state["holder"], self.holder
        same_machine = holder["machine"] and holder["machine"] == ours["machine"]
        if same_machine and start_ticks(holder["pid"]) != holder["started"]:
            return "that process has ended"
        if holder["job"] and holder["job"] == ours["job"] and holder["restart"] < ours["restart"]:
            return "its job was started again"
        if same_machine or (first and state != first):
            stop = f"scancel {holder['job'].partition(' ')[0]}" if holder["job"] else f"kill {holder['pid']} there"
            raise HeldError(f"{self.folder}: is being written by {_name(state)}; wait for its end, or stop it ({stop})")
        stale = first is not None and time.monotonic() - since >= SECONDS_UNTIL_STALE
        return f"no heartbeat for {SECONDS_UNTIL_STALE:.0f} s" if stale else None

    def _renew(self) -> None:
        while not self._released.wait(SECONDS_BETWEEN_HEARTBEATS):
            # The run reports a full disk or a deleted folder; the lock tries again.
            with suppress(UserError), self._guard():
                state = self._read()
                if state is not None and state["holder"] != self.holder:
                    _report(f"error: {self.folder}: was taken over by {_name(state)}")
                    os._exit(1)
                self._heartbeat += 1
                self._write()

    def _read(self) -> State | None:
        """Return the state; None: there is no lock, or a power failure has emptied its file.

        A living holder's file is never empty, because it is renamed only after it was written to the disk.
        """
        path = self.folder / LOCK_FILE
        try:
            content = path.read_bytes()
            if not content.strip(b"\0 \t\r\n"):
                _report(f"warning: {path}: is empty, as after a power failure; it is ignored")
                return None
            state: State = json.loads(content)
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
        # Writing would create a deleted folder again.
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
        "token": uuid.uuid4().hex,  # differs each time a lock is taken
        "host": socket.gethostname(),
        "machine": machine_id(),
        "pid": pid,
        "started": start_ticks(pid),  # distinguishes processes with the same id
        "job": f"{job} of {cluster}" if job and cluster else job,
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _name(state: State) -> str:
    holder = state["holder"]
    job = f", SLURM job {holder['job']} (restart {holder['restart']})" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
