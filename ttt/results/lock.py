"""The lock of a run's folder: one process writes there at a time, also where several machines share the disk.

``lock.json`` names the holder, and the holder renews it every few seconds. Whether a holder is still there:

- on the same machine, its process tells;
- in the same job of a cluster, a later restart means that the earlier one has ended;
- elsewhere, a file that was not renewed for a minute has lost its holder. Clocks are not compared.

Looking and writing happen under a file lock of the operating system, so that of two that take over one wins.
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from ttt.config.errors import UserError
from ttt.results.atomic import write_text

LOCK_FILE, GUARD_FILE = "lock.json", ".lock.guard"
LOCK_FILES = (LOCK_FILE, GUARD_FILE)
"""What the lock keeps in a folder; neither is part of a run."""

SECONDS_BETWEEN_BEATS = 5.0
SECONDS_UNTIL_STALE = 60.0
SECONDS_FOR_GUARD = 30.0


@dataclass(frozen=True)
class Holder:
    """Who writes a folder.

    Attributes:
        token: another one for each time that a lock is taken.
        host: name of the machine.
        machine: what processes must share for a process id to mean the same to both; empty where it is not known.
        pid: the process.
        started: when that process started, in ticks of the machine's clock; tells apart processes that had one id.
        job: SLURM's id of the job, and of its cluster; None outside.
        restart: how often the job was queued again.
        since: when the lock was taken, ISO 8601 UTC.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: int | None
    job: str | None
    restart: int
    since: str

    def __str__(self) -> str:
        job = f", SLURM job {self.job} (restart {self.restart})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


@dataclass(frozen=True)
class State:
    """What ``lock.json`` holds: ``beat`` counts how often ``holder`` has renewed it."""

    holder: Holder
    beat: int


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only this process writes ``folder``, which is made where it is missing and removed if it stays empty.

    Should another machine have taken the folder over, because this one stood still, the process ends on the spot: there
    is nothing it may still write.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    made = _make(folder)
    lock = Lock(folder)
    try:
        lock.take()
        try:
            yield
        finally:
            lock.release()
    finally:
        _remove_empty(made)


class Lock:
    """The lock of ``folder``, an existing one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.holder = folder, _this_process()
        self._beat = 0
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)

    def take(self) -> None:
        """Waits as long as it takes to see whether another holder is still there, a minute at most.

        Raises:
            UserError: it is, or the folder cannot be written.
        """
        watch = Watch(self.folder)
        while not self._taken(watch):
            time.sleep(SECONDS_BETWEEN_BEATS / 2)
        self._renewing.start()

    def release(self) -> None:
        """Lets the next one in."""
        self._ended.set()
        self._renewing.join()
        # A folder that was deleted in the meantime has no lock to remove.
        with suppress(UserError), self._guard():
            state = _read(self.folder)
            if state is not None and state.holder == self.holder:
                (self.folder / LOCK_FILE).unlink()
            # Who waits for it notices that it is another file by now.
            (self.folder / GUARD_FILE).unlink()

    def _taken(self, watch: "Watch") -> bool:
        with self._guard():
            state = _read(self.folder)
            why = None if state is None else _gone(state.holder, self.holder) or watch.silent(state, self.holder)
            if state is not None and why is None:
                return False
            if state is not None:
                print(f"{self.folder}: taken over from {state.holder}: {why}", file=sys.stderr, flush=True)
            self._write()
        return True

    def _renew(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_BEATS):
            # A full disk or a deleted folder is for the run to find; the lock tries again.
            with suppress(UserError), self._guard():
                state = _read(self.folder)
                if state is not None and state.holder != self.holder:
                    print(f"error: {self.folder}: was taken over by {state.holder}", file=sys.stderr, flush=True)
                    os._exit(1)
                self._beat += 1
                self._write()

    def _write(self) -> None:
        state = asdict(State(self.holder, self._beat))
        write_text(self.folder / LOCK_FILE, json.dumps(state, indent=2) + "\n")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        # Else a folder that was deleted would be made again.
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: was deleted; start again")
        try:
            with filelock.FileLock(self.folder / GUARD_FILE, timeout=SECONDS_FOR_GUARD):
                yield
        except (OSError, filelock.Timeout) as error:
            reason = getattr(error, "strerror", None) or "its lock is held too long"
            raise UserError(f"{self.folder}: cannot be written ({reason}); choose another folder") from error


class Watch:
    """Looks at a lock for as long as it takes to tell whether its holder still renews it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._first: State | None = None
        self._since = 0.0

    def silent(self, state: State, other: Holder) -> str | None:
        """Why the holder is given up; None: it has more time.

        Raises:
            UserError: the holder is there.
        """
        holder = state.holder
        if (holder.machine and holder.machine == other.machine) or (self._first and state != self._first):
            stop = f"scancel {holder.job.partition(' ')[0]}" if holder.job else f"kill {holder.pid} there"
            raise UserError(f"{self.folder}: is being written by {holder}; wait for its end, or stop it ({stop})")
        if self._first is None:
            self._first, self._since = state, time.monotonic()
            wait = f"waiting up to {SECONDS_UNTIL_STALE:.0f} s to see whether it is still there"
            print(f"{self.folder}: held by {holder}; {wait}", file=sys.stderr, flush=True)
        if time.monotonic() - self._since < SECONDS_UNTIL_STALE:
            return None
        return f"no sign of it for {SECONDS_UNTIL_STALE:.0f} s"


def holds_other_files(folder: Path) -> bool:
    """Whether there is more in ``folder`` than a lock."""
    return any(path.name not in LOCK_FILES for path in folder.iterdir())


def _gone(holder: Holder, other: Holder) -> str | None:
    """Why ``holder`` has certainly ended; None: it may be there."""
    if holder.machine and holder.machine == other.machine and _started(holder.pid) != holder.started:
        return "that process has ended"
    if holder.job is not None and holder.job == other.job and holder.restart < other.restart:
        return "its job was started again"
    return None


def _read(folder: Path) -> State | None:
    path = folder / LOCK_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return State(Holder(**plain["holder"]), plain["beat"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: names no holder ({error}); remove it if nothing writes the folder") from error


def _this_process() -> Holder:
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=pid,
        started=_started(pid),
        job=f"{job} of {cluster}" if job and cluster else job,
        restart=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _machine() -> str:
    """The machine since it was started and the container on it, where the system tells them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When the process started; None where there is none that runs, or the system does not tell."""
    try:
        # The second field is a name in parentheses, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _make(folder: Path) -> list[Path]:
    """Makes ``folder``; returns it and what was made above it, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
