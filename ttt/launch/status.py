"""The status of every run of a sweep, from its record, the ends of its jobs, and SLURM's accounting."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, cast

from ttt.config.errors import UserError
from ttt.launch.jobs import RunJob, ends_of, jobs_of, states_of
from ttt.launch.journal import End, Submitted
from ttt.launch.plan import PlannedRun, SweepFolder, read_runs
from ttt.results.record import Record, RunFolder, read_record

State = Literal[
    "not submitted",
    "queued",
    "waiting",
    "running",
    "finished",
    "failed",
    "killed",
    "timed out",
    "preempted",
    "cancelled",
    "orphaned",
    "deleted",
]

ACTIVE: tuple[State, ...] = ("queued", "waiting", "running")
BROKEN: tuple[State, ...] = ("failed", "killed", "timed out", "preempted", "orphaned", "deleted")
"""States of runs that stay unfinished until they are submitted again."""

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")
OTHER: dict[str, tuple[State, str]] = {
    "TIMEOUT": ("timed out", "more often than slurm.requeues allows"),
    "DEADLINE": ("timed out", "its deadline passed"),
    "PREEMPTED": ("preempted", "and not queued again by SLURM"),
    "OUT_OF_MEMORY": ("killed", "out of memory; retry with slurm.mem_gb=MORE"),
    "NODE_FAIL": ("killed", "its node failed"),
    "BOOT_FAIL": ("killed", "its node did not start"),
    "CANCELLED": ("cancelled", ""),
}
"""SLURM's state of a job that was ended from outside -> state and detail of its run."""

LATE = timedelta(minutes=2)
"""Time after which accounting should know a job."""

ORPHANED = "the run it starts from did not finish"

SAME_FAILURES = 3
"""Equal failures in a row after which a run is not retried."""


@dataclass(frozen=True)
class RunStatus:
    """The current status of a run.

    Attributes:
        run: the planned run.
        state: its state.
        detail: reason or result; may be empty.
        job_id: id of its last job.
        given_up: it failed the same way ``SAME_FAILURES`` times and is not retried.
        steps: optimizer steps done, of ``run.steps``.
        tokens_per_second: training speed, now or when last training.
        seconds_left: training time left at that speed.
        elsewhere: folder of the sweep that submitted its last job, if it is not this one.
    """

    run: PlannedRun
    state: State
    detail: str = ""
    job_id: str = ""
    given_up: bool = False
    steps: int = 0
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    elsewhere: Path | None = None


def sweep_status(folder: SweepFolder) -> list[RunStatus]:
    """Return the status of every run of the sweep, in the order of its plan.

    Raises:
        UserError: the plan is missing or broken, or SLURM does not answer.
    """
    runs = read_runs(folder)
    jobs = jobs_of(folder, runs)
    records = {run.run_id: _record(run) for run in runs}
    unfinished = {run.run_id for run in runs if not _finished(run, records[run.run_id])}
    states = states_of([job for run_id in unfinished for job in jobs[run_id]])
    found: dict[str, RunStatus] = {}
    for run in runs:
        ends = ends_of(run, jobs[run.run_id]) if run.run_id in unfinished else []
        status = _status(run, records[run.run_id], jobs[run.run_id], states, ends, found)
        last = jobs[run.run_id][-1] if jobs[run.run_id] else None
        elsewhere = last.sweep if last and last.sweep != folder.path else None
        found[run.run_id] = replace(status, job_id=last.line["job_id"] if last else "", elsewhere=elsewhere)
    return list(found.values())


def _status(
    run: PlannedRun,
    record: Record | UserError | None,
    jobs: list[RunJob],
    states: dict[tuple[Path, str], str],
    ends: list[End],
    others: dict[str, RunStatus],
) -> RunStatus:
    status = _progress(run, record)
    if _finished(run, record):
        return replace(status, state="finished", detail=_result(cast(Record, record)))
    if not jobs:
        return status
    outcomes = [_outcome(job.line, states.get(job.key), ends, record) for job in jobs]
    state, detail = outcomes[-1]
    if run.parent and others[run.parent].state != "finished":
        if state == "queued":
            state, detail = "waiting", f"for {run.parent}"
        elif state == "cancelled" and not jobs[-1].line.get("ended"):
            # SLURM cancels a job whose dependency can no longer be satisfied.
            state, detail = "orphaned", ORPHANED
    same = outcomes[-SAME_FAILURES:]
    given_up = state in BROKEN and state != "orphaned" and len(same) == SAME_FAILURES and len(set(same)) == 1
    return replace(status, state=state, detail=detail, given_up=given_up)


def _outcome(
    job: Submitted, state: str | None, ends: Iterable[End], record: Record | UserError | None
) -> tuple[State, str]:
    """Return the state and detail that one job gives its unfinished run."""
    if job.get("ended") == "orphaned":
        return "orphaned", ORPHANED
    if job.get("ended") == "cancelled":
        return ("running", "is being cancelled") if state in RUNNING else ("cancelled", "")
    if state is None:
        late = datetime.now(UTC) - datetime.fromisoformat(job["time"]) > LATE
        return ("killed", "SLURM does not know its job") if late else ("queued", "")
    if state in QUEUED:
        return "queued", ""
    if state in RUNNING:
        return "running", ""
    own = [end for end in ends if end["job_id"] == job["job_id"]]
    if own and own[-1]["status"] == "failed":
        return "failed", own[-1]["error"] or ""
    if state in OTHER:
        return OTHER[state]
    if own and own[-1]["status"] == "finished":
        return ("deleted", "its folder is gone") if record is None else ("killed", str(record))
    return "killed", own[-1]["error"] or "" if own else ""


def _record(run: PlannedRun) -> Record | UserError | None:
    path = RunFolder(Path(run.folder)).record
    if not path.exists():
        return None
    try:
        return read_record(path)
    except UserError as error:
        return error


def _finished(run: PlannedRun, record: Record | UserError | None) -> bool:
    return isinstance(record, dict) and record["status"] == "finished" and record["steps"] >= run.steps


def _result(record: Record) -> str:
    validation = record["results"].get("validation")
    return f"validation perplexity {validation['perplexity']:.2f}" if validation else ""


def _progress(run: PlannedRun, record: Record | UserError | None) -> RunStatus:
    """Return a status with the progress that the run's record reports."""
    if not isinstance(record, dict):
        return RunStatus(run, "not submitted")
    steps, rate = record["steps"], record["timing"]["tokens_per_second"]
    left = max(0, run.steps - steps) * run.tokens_per_step / rate if rate else None
    return RunStatus(run, "not submitted", steps=steps, tokens_per_second=rate, seconds_left=left)
