"""Append-only files of JSON lines: jobs that were submitted, and how they ended."""

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from ttt.config.errors import UserError
from ttt.launch.plan import PlannedRun

Executor = Literal["slurm", "local"]
EndStatus = Literal["finished", "failed", "diverged", "interrupted", "requeued"]


class JobLine(TypedDict):
    """A line of ``jobs.jsonl``.

    ``job_id`` is SLURM's job id or, on this machine, a process id; it is empty while a local run waits in the queue.
    ``time`` is ISO 8601 UTC. ``ended``: the user cancelled the job, or it was given up because its parent run did not
    finish.
    """

    run_id: str
    job_id: str
    executor: Executor
    time: str
    ended: NotRequired[Literal["cancelled", "orphaned"]]


class JobEnd(TypedDict):
    """A line of ``ends/RUN.jsonl``; ``restart`` is the number of earlier requeues of the job."""

    job_id: str
    restart: int
    status: EndStatus
    error: str | None
    time: str


def job_line(run: PlannedRun, job_id: str, executor: Executor) -> JobLine:
    """Return the line of ``jobs.jsonl`` for a run that now has a job."""
    return {"run_id": run.run_id, "job_id": job_id, "executor": executor, "time": datetime.now(UTC).isoformat()}


def append_lines(path: Path, lines: Iterable[Any]) -> None:
    """Append lines in a single write, so that other processes see all or none of them.

    Raises:
        UserError: the file cannot be written.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not text:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            if _ends_within_a_line(file.fileno()):
                text = "\n" + text
            file.write(text.encode())
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


def _ends_within_a_line(file: int) -> bool:
    """Return whether the last line is incomplete, after a full disk or a crash."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"
