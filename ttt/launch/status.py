"""What became of every run of a sweep: its own record, the ends of its jobs, and SLURM's word, put together."""

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
    "diverged",
    "failed",
    "killed",
    "timed out",
    "preempted",
    "cancelled",
    "orphaned",
    "deleted",
]

ACTIVE: tuple[State, ...] = ("queued", "waiting", "running")
BROKEN: tuple[State, ...] = ("diverged", "failed", "killed", "timed out", "preempted", "orphaned", "deleted")
"""States in which a run stays unfinished unless it is submitted again."""

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
"""SLURM's states of a job that has ended other than by itself -> ours, and what to add."""

LATE = timedelta(minutes=2)
"""How long accounting may take to hear of a job."""

ORPHANED = "the run it starts from did not finish"

SAME_FAILURES = 3
"""So often the same failure in a row, and a run is not tried again."""


@dataclass(frozen=True)
class RunStatus:
    """A run now.

    Attributes:
        run: what was planned.
        state: in one word or two.
        detail: why, or how far; may be empty.
        job_id: of its last job.
        given_up: whether it failed the same way too often to be tried again.
        steps: optimizer steps done, of ``run.steps``.
        tokens_per_second: as it trains, or trained at last.
        seconds_left: of training, at that rate.
        elsewhere: folder of the sweep that submitted its last job, where that is another one.
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
    """The state of every run of the sweep, in the order of its plan.

    Raises:
        UserError: the folder holds no plan or a broken one, or SLURM cannot be asked.
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
            # SLURM's word for a job whose dependency can no longer be satisfied.
            state, detail = "orphaned", ORPHANED
    same = outcomes[-SAME_FAILURES:]
    given_up = state in BROKEN and state != "orphaned" and len(same) == SAME_FAILURES and len(set(same)) == 1
    return replace(status, state=state, detail=detail, given_up=given_up)


def _outcome(
    job: Submitted, state: str | None, ends: Iterable[End], record: Record | UserError | None
) -> tuple[State, str]:
    """What became of one job of a run that has not finished."""
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
    if own and own[-1]["status"] in ("diverged", "failed"):
        return cast(State, own[-1]["status"]), own[-1]["error"] or ""
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
    """What the record tells of how far the run is."""
    if not isinstance(record, dict):
        return RunStatus(run, "not submitted")
    steps, rate = record["steps"], record["timing"]["tokens_per_second"]
    left = max(0, run.steps - steps) * run.tokens_per_step / rate if rate else None
    return RunStatus(run, "not submitted", steps=steps, tokens_per_second=rate, seconds_left=left)
