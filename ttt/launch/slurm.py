"""Calls of SLURM's commands: sacct for the states of jobs, scancel to cancel them."""

import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter

from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmInfoWatcher

from ttt.config.errors import UserError

TIMEOUT_S = 60
"""Time limit of a command; a busy or restarting controller answers late."""

SUBMISSION_S, CLOCKS_S = 600, 60
"""Seconds that a submission may take until it is recorded, and by which the clocks of two machines may differ."""

NUMBER_REUSED = "NUMBER_REUSED"
"""State of a job whose number now belongs to another job."""

REQUEUED = ("PREEMPTED", "NODE_FAIL")
"""States that accounting reports for some seconds after SLURM has requeued a job."""


KEPT_VARIABLES = ("SLURM_CONF", "SBATCH_")
"""Variables of a job, or their beginnings, that do not describe its resources: where SLURM is, and the user's own
defaults of ``sbatch``."""

SET_IN_JOBS = ("SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
"""The beginnings of variables that look like the user's own, but that SLURM sets in a job."""


@contextmanager
def outside_a_job() -> Iterator[None]:
    """Hide the variables of the job, if any, in which this command runs; a job inherits them from ``sbatch``."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT_VARIABLES)}
    with clean_env():
        os.environ.update({name: value for name, value in kept.items() if not name.startswith(SET_IN_JOBS)})
        yield


def require_slurm(command: str, name: str) -> None:
    """Check that a command of SLURM is installed.

    Args:
        command: the command.
        name: name of the cluster, for the message.

    Raises:
        UserError: it is not installed.
    """
    if shutil.which(command) is None:
        remedy = "run this where SLURM's commands are, such as a login node, or use slurm=local"
        raise UserError(f"slurm={name}: no {command} on this machine; {remedy}")


@dataclass(frozen=True)
class SlurmJob:
    """A job as it was recorded when it was submitted.

    Attributes:
        job_id: such as 17 or, in an array, 17_3.
        name: its name; None: not recorded.
        time: the time at which it was recorded, seconds since 1970.
    """

    job_id: str
    name: str | None
    time: float

    @property
    def submission(self) -> tuple[str, str | None, int]:
        """A key that the jobs of one array share, and hardly another job: number, name and minute."""
        return self.job_id.partition("_")[0], self.name, int(self.time // 60)


def job_states(submitted: Collection[SlurmJob]) -> dict[SlurmJob, str]:
    """Return SLURM's state of each job from one call of sacct, without jobs that accounting does not know yet.

    SLURM counts jobs from 1 again after a largest number, or when its state is lost. A job is recognised by its name
    and by a submission at the recorded time; a job that was queued again has several submissions.

    Returns:
        job -> PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ..., or ``NUMBER_REUSED``.

    Raises:
        UserError: sacct is missing or fails, as without accounting.
    """
    if not submitted:
        return {}
    require_slurm("sacct", "sacct")
    numbers = sorted({job.submission[0] for job in submitted}, key=int)
    columns = "--format=JobID,State,End,Submit,JobName"
    options = ["--allocations", "--duplicates", "--parsable2", columns]
    header, *output = _run(["sacct", *options, f"--jobs={','.join(numbers)}"]).splitlines() or [""]
    rows_of = defaultdict[str, list[list[str]]](list)
    for row in output:
        rows_of[row.partition("|")[0].partition("_")[0]].append(row.split("|", 4))
    states: dict[SlurmJob, str] = {}
    for (number, *_), jobs in _by_submission(submitted).items():
        rows = rows_of[number]
        infos = SlurmInfoWatcher(delay_s=TIMEOUT_S).read_info("\n".join([header, *_own_rows(rows, jobs[0])]))
        for job in jobs:
            if job.job_id in infos:
                states[job] = _state(infos[job.job_id])
            elif rows and not infos:
                states[job] = NUMBER_REUSED
    return states


def _by_submission(submitted: Collection[SlurmJob]) -> dict[tuple[str, str | None, int], list[SlurmJob]]:
    groups = defaultdict[tuple[str, str | None, int], list[SlurmJob]](list)
    for job in submitted:
        groups[job.submission].append(job)
    return groups


def _own_rows(rows: list[list[str]], job: SlurmJob) -> list[str]:
    """Return the rows of sacct that belong to the job or its array, in order of submission."""
    later = [
        (int(submit), "|".join(row))
        for row in rows
        for submit, name in [row[3:]]
        if submit.isdigit() and int(submit) > job.time - SUBMISSION_S and job.name in (None, name)
    ]
    later.sort(key=itemgetter(0))
    return [row for _, row in later] if later and later[0][0] < job.time + CLOCKS_S else []


def _state(info: dict[str, str]) -> str:
    # The state may be followed by a user id: "CANCELLED by 1000".
    state = info["State"].split(" ")[0]
    just_ended = info["End"].isdigit() and time.time() - int(info["End"]) < TIMEOUT_S
    return "REQUEUED" if state in REQUEUED and just_ended else state


def cancel_jobs(job_ids: Collection[str]) -> None:
    """Cancel jobs that wait or run; runs that are training save a checkpoint first.

    Raises:
        UserError: scancel is missing or fails.
    """
    require_slurm("scancel", "scancel")
    _run(["scancel", *sorted(job_ids)])


def one_line(text: str) -> str:
    """Return the output of a SLURM command as one line, without the command's name before each part."""
    lines = [line.partition("error: ")[2] or line for line in text.strip().splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip())


def _run(command: list[str]) -> str:
    """Return the output of a SLURM command, with times in seconds since 1970."""
    name = command[0]
    try:
        environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name}: SLURM did not answer within {TIMEOUT_S} s; try again") from error
    if done.returncode:
        reason = one_line(done.stderr) or f"exit code {done.returncode}"
        remedy = "try again"
        if "accounting storage is disabled" in done.stderr:
            remedy = "job states need SLURM's accounting (slurmdbd); ask the cluster's administrators"
        raise UserError(f"{name}: {reason}; {remedy}")
    return done.stdout
