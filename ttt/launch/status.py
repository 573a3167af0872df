"""The status of every run of a sweep, from its record, the ends of its jobs, and SLURM's accounting."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import disk_usage
from typing import Literal, cast

from ttt.config.errors import UserError
from ttt.launch.jobs import ends_of_run, jobs_by_run, states_by_job
from ttt.launch.journal import JobEnd, JobLine
from ttt.launch.plan import PlannedRun, SweepFolder, read_runs
from ttt.launch.slurm import NUMBER_REUSED
from ttt.results.record import Record, RunFolder, read_record
from ttt.results.steps import steps_in_words, stopped_early

RunState = Literal[
    "not submitted",
    "queued",
    "waiting",
    "running",
    "finished",
    "failed",
    "diverged",
    "killed",
    "timed out",
    "preempted",
    "cancelled",
    "orphaned",
    "deleted",
]
"""``waiting``: for the parent run; ``orphaned``: the parent did not finish; ``deleted``: the run folder is gone."""

Outcome = tuple[RunState, str]
"""State and detail of a run."""

ACTIVE: tuple[RunState, ...] = ("queued", "waiting", "running")
BROKEN: tuple[RunState, ...] = ("failed", "diverged", "killed", "timed out", "preempted", "orphaned", "deleted")
"""States of runs that stay unfinished until they are submitted again."""

SLURM_QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED")
SLURM_RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")
SLURM_ENDED: dict[str, Outcome] = {
    "TIMEOUT": ("timed out", "more often than slurm.requeues allows"),
    "DEADLINE": ("timed out", "its deadline passed"),
    "PREEMPTED": ("preempted", "and not queued again by SLURM"),
    "OUT_OF_MEMORY": ("killed", "out of memory; retry with slurm.mem_gb=MORE"),
    "NODE_FAIL": ("killed", "its node failed"),
    "BOOT_FAIL": ("killed", "its node did not start"),
    "CANCELLED": ("cancelled", ""),
}
"""SLURM's state of a job that SLURM or the user ended -> outcome of its run."""

ACCOUNTING_DELAY = timedelta(minutes=2)
"""Time after which accounting should know a job."""

ENDING = "is being cancelled"

ORPHANED: Outcome = ("orphaned", "the run it starts from did not finish")

FULL_DISK = 2**20
"""Free bytes below which a disk counts as full; a job there can end without recording the reason."""

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
        given_up: the run failed ``SAME_FAILURES`` times in the same way and is not retried.
        steps: optimizer steps done, of ``run.steps``.
        tokens_per_second: latest training speed.
        seconds_left: training time left at that speed.
        elsewhere: folder of the sweep that submitted its last job, if it is another sweep.
        known: run folder with its finished record, if it lies in the folder of ``known=`` and is not finished here.
    """

    run: PlannedRun
    state: RunState = "not submitted"
    detail: str = ""
    job_id: str = ""
    given_up: bool = False
    steps: int = 0
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    elsewhere: Path | None = None
    known: Path | None = None

    @property
    def has_trained(self) -> bool:
        """Whether the run has trained a step, in any of its jobs."""
        return self.steps > 0 or self.state == "finished"


def sweep_status(folder: SweepFolder) -> list[RunStatus]:
    """Return the status of every run of the sweep, in the order of its plan.

    Raises:
        UserError: the plan is missing or broken, or SLURM does not answer.
    """
    runs = read_runs(folder)
    jobs = jobs_by_run(folder, runs)
    records = {run.run_id: read_record_of(Path(run.folder)) for run in runs}
    finished = {run.run_id for run in runs if is_finished(run, records[run.run_id])}
    states = states_by_job([job for run_id, of_run in jobs.items() if run_id not in finished for job in of_run])
    statuses: dict[str, RunStatus] = {}
    for run in runs:
        record, jobs_of_run = records[run.run_id], jobs[run.run_id]
        status = _progress(run, record)
        if jobs_of_run:
            last = jobs_of_run[-1]
            elsewhere = last.sweep if last.sweep != folder.path else None
            status = replace(status, job_id=last.line["job_id"], elsewhere=elsewhere)
        if run.run_id in finished:
            status = replace(status, state="finished", detail=_result(cast(Record, record)))
        elif jobs_of_run:
            ends = ends_of_run(run, jobs_of_run)
            outcomes = [_outcome(job.line, states.get(job.key), ends, record) for job in jobs_of_run]
            cancelled_by_user = "ended" in last.line
            parent_finished = run.parent is None or statuses[run.parent].state == "finished"
            status = _with_outcomes(status, outcomes, cancelled_by_user, parent_finished)
            if (status.state, status.detail) == ("killed", "") and disk_usage(folder.path).free < FULL_DISK:
                status = replace(status, detail=f"the disk of {folder.path} is full; free some space, then retry")
        statuses[run.run_id] = status
    return list(statuses.values())


def read_record_of(folder: Path) -> Record | UserError | None:
    """Return the record in a run folder, the error if it is broken, or None if there is none."""
    path = RunFolder(folder).record
    if not path.exists():
        return None
    try:
        return read_record(path)
    except UserError as error:
        return error


def is_finished(run: PlannedRun, record: Record | UserError | None) -> bool:
    """Return whether a record says that the run has done the steps that the sweep plans."""
    return isinstance(record, dict) and record["status"] == "finished" and record["steps"] >= run.steps


def _progress(run: PlannedRun, record: Record | UserError | None) -> RunStatus:
    """Return a status with the progress in the run's record."""
    if not isinstance(record, dict):
        return RunStatus(run)
    steps, rate = record["steps"], record["timing"]["tokens_per_second"]
    left = max(0, run.steps - steps) * run.tokens_per_step / rate if rate else None
    return RunStatus(run, steps=steps, tokens_per_second=rate, seconds_left=left)


def _result(record: Record) -> str:
    validation = record["results"].get("validation")
    after = f" after {steps_in_words(record)}" if stopped_early(record) else ""
    return f"validation perplexity {validation['perplexity']:.2f}{after}" if validation else after.strip()


def _outcome(
    job: JobLine, slurm_state: str | None, ends: Iterable[JobEnd], record: Record | UserError | None
) -> Outcome:
    """Return the outcome of one job of an unfinished run."""
    if job.get("ended") == "orphaned":
        return ORPHANED
    if job.get("ended") == "cancelled":
        # A waiting run on this machine has no job that could still start.
        ending = slurm_state in SLURM_RUNNING or (slurm_state in SLURM_QUEUED and job["job_id"])
        return ("running" if slurm_state in SLURM_RUNNING else "queued", ENDING) if ending else ("cancelled", "")
    if slurm_state in (None, NUMBER_REUSED):
        late = datetime.now(UTC) - datetime.fromisoformat(job["time"]) > ACCOUNTING_DELAY
        gone = "SLURM does not know its job"
        if slurm_state == NUMBER_REUSED:
            gone = f"SLURM has given the number {job['job_id']} of its job to another job"
        return ("killed", gone) if late else ("queued", "")
    if slurm_state in SLURM_QUEUED:
        return "queued", ""
    if slurm_state in SLURM_RUNNING:
        return "running", ""
    ends_of_job = [end for end in ends if end["job_id"] == job["job_id"]]
    last_end = ends_of_job[-1] if ends_of_job else None
    if last_end and last_end["status"] in ("failed", "diverged"):
        return cast(RunState, last_end["status"]), last_end["error"] or ""
    if slurm_state in SLURM_ENDED:
        return SLURM_ENDED[slurm_state]
    if last_end is None:
        return "killed", ""
    if last_end["status"] == "finished":
        return ("deleted", "its folder is gone") if record is None else ("killed", str(record))
    return "killed", last_end["error"] or ""


def _with_outcomes(
    status: RunStatus, outcomes: list[Outcome], cancelled_by_user: bool, parent_finished: bool
) -> RunStatus:
    """Return the status of an unfinished run from the outcomes of its jobs, in order of submission."""
    state, detail = outcomes[-1]
    if not parent_finished and state == "queued":
        state, detail = "waiting", f"for {status.run.parent}"
    if not parent_finished and state == "cancelled" and not cancelled_by_user:
        # SLURM cancels a job whose dependency can no longer be satisfied.
        state, detail = ORPHANED
    last = outcomes[-SAME_FAILURES:]
    always_same = len(last) == SAME_FAILURES and len(set(last)) == 1
    given_up = always_same and state in BROKEN and state != "orphaned"
    return replace(status, state=state, detail=detail, given_up=given_up)
