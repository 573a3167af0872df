"""Calls of SLURM's commands: sacct for the states of jobs, scancel to cancel them."""

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmInfoWatcher

from ttt.config.errors import UserError

TIMEOUT_S = 60
"""Time limit of a command; a busy or restarting controller answers late."""

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


def job_states(job_ids: Collection[str]) -> dict[str, str]:
    """Return SLURM's state of each job from one call of sacct, without jobs that accounting does not know yet.

    Args:
        job_ids: such as 17 or, in an array, 17_3.

    Returns:
        job id -> PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ...

    Raises:
        UserError: sacct is missing or fails, as without accounting.
    """
    if not job_ids:
        return {}
    require_slurm("sacct", "sacct")
    arrays = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    command = ["sacct", "--allocations", "--parsable2", "--format=JobID,State,End", f"--jobs={','.join(arrays)}"]
    jobs = SlurmInfoWatcher(delay_s=TIMEOUT_S).read_info(_run(command))
    return {job_id: _state(jobs[job_id]) for job_id in job_ids if job_id in jobs}


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
