"""Files to which lines of JSON are only ever added: what was submitted, and how jobs ended."""

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from ttt.config.errors import UserError
from ttt.launch.plan import PlannedRun

Line = dict[str, Any]
Executor = Literal["slurm", "local"]
EndStatus = Literal["finished", "diverged", "failed", "interrupted", "requeued"]


class Submitted(TypedDict):
    """A line of ``jobs.jsonl``.

    ``job_id`` is SLURM's, or a process's on this machine; empty: a run that waits for its turn on this machine.
    ``time`` is ISO 8601 UTC. ``ended``: the job was cancelled by the user, or given up
    because the run that it starts from did not finish.
    """

    run_id: str
    job_id: str
    executor: Executor
    time: str
    ended: NotRequired[Literal["cancelled", "orphaned"]]


class End(TypedDict):
    """A line of ``ends/RUN.jsonl``: ``restart`` counts how often the job had been queued again before."""

    job_id: str
    restart: int
    status: EndStatus
    error: str | None
    time: str


def submitted(run: PlannedRun, job_id: str, executor: Executor) -> Submitted:
    """The line for a run that now has a job."""
    return {"run_id": run.run_id, "job_id": job_id, "executor": executor, "time": datetime.now(UTC).isoformat()}


def append(path: Path, lines: Iterable[Any]) -> None:
    """Adds lines in one write, which other processes see whole.

    Raises:
        UserError: the file cannot be written.
    """
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not text:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            # A line that a full disk cut off must not swallow the next one.
            cut_off = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            os.write(file, ("\n" * cut_off + text).encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free the place") from error


def read(path: Path) -> list[Line]:
    """All lines, none where there is no file. A last line that a full disk or a crash cut off is not one.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    whole, _, _ = text.rpartition("\n")
    try:
        return [json.loads(line) for line in whole.splitlines() if line]
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON ({error}); remove that line") from error
