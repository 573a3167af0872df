"""Append-only files of JSON lines: jobs that were submitted, and how they ended."""

import errno
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from ttt.config.errors import UserError
from ttt.launch.plan import PlannedRun
from ttt.results.processes import machine_id, start_ticks

Executor = Literal["slurm", "local"]
EndStatus = Literal["finished", "failed", "diverged", "interrupted", "requeued"]


class JobLine(TypedDict):
    """A line of ``jobs.jsonl``.

    ``job_id`` is SLURM's job id or, on this machine, a process id; it is empty while a local run waits in the queue.
    ``time`` is ISO 8601 UTC. ``name`` is the job's name in SLURM. ``machine`` and ``started`` identify a process, see
    ``ttt.results.processes``; earlier versions wrote none of these three. ``slot`` is the place of a process among
    those of its queue. ``ended``: the user cancelled the job, or it was given up because its parent did not finish.
    """

    run_id: str
    job_id: str
    executor: Executor
    time: str
    name: NotRequired[str]
    machine: NotRequired[str]
    started: NotRequired[int | None]
    slot: NotRequired[int]
    ended: NotRequired[Literal["cancelled", "orphaned"]]


class JobEnd(TypedDict):
    """A line of ``ends/RUN.jsonl``; ``restart`` is the number of earlier requeues of the job."""

    job_id: str
    restart: int
    status: EndStatus
    error: str | None
    time: str


def slurm_line(run: PlannedRun, job_id: str, name: str) -> JobLine:
    """Return the line of ``jobs.jsonl`` for a run that now has a job of SLURM with this name."""
    return {**_line(run, job_id, "slurm"), "name": name}


def local_line(run: PlannedRun, pid: str = "", slot: int = 0) -> JobLine:
    """Return the line of ``jobs.jsonl`` for a run that now is a process on this machine, or waits to be one."""
    line = _line(run, pid, "local")
    return {**line, "machine": machine_id(), "started": start_ticks(int(pid)), "slot": slot} if pid else line


def _line(run: PlannedRun, job_id: str, executor: Executor) -> JobLine:
    return {"run_id": run.run_id, "job_id": job_id, "executor": executor, "time": datetime.now(UTC).isoformat()}


def append_lines(path: Path, lines: Iterable[Any]) -> None:
    """Append lines in a single write, so that other processes see all or none of them.

    An incomplete last line, which a full disk or a killed process has left, is removed first.

    Raises:
        UserError: the file cannot be written.
    """
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if not data:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            _remove_incomplete_line(file)
            # A disk that fills takes a part of the data without an error.
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free disk space") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines, none if the file is missing. Ignore an incomplete last line (full disk, crash).

    Raises:
        UserError: the file cannot be read, or a line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    complete, _, _ = text.rpartition("\n")
    try:
        return [json.loads(line) for line in complete.splitlines() if line]
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON ({error}); remove that line") from error


def _remove_incomplete_line(file: FileIO) -> None:
    size = os.fstat(file.fileno()).st_size
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.truncate(os.pread(file.fileno(), size, 0).rfind(b"\n") + 1)
