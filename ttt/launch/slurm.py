"""What SLURM's own commands are asked: sacct for the state of jobs, scancel to end them."""

import os
import shutil
import subprocess
import time
from collections.abc import Collection

from submitit.slurm.slurm import SlurmInfoWatcher

from ttt.config.errors import UserError

SECONDS = 60
"""A controller that is restarted or busy answers late, and then it answers."""

JOBS_A_COMMAND = 1000

QUEUED_AGAIN = ("PREEMPTED", "NODE_FAIL")
"""States that accounting shows for some seconds of a job that SLURM has put back into its queue."""


def require_slurm(command: str, name: str) -> None:
    """Refuses to go on where there is no SLURM.

    Args:
        command: SLURM's command that is needed.
        name: the cluster's.

    Raises:
        UserError: it is not installed here.
    """
    if shutil.which(command) is None:
        remedy = "run this where SLURM's commands are, such as a login node; slurm=local uses this machine alone"
        raise UserError(f"slurm={name}: no {command} on this machine; {remedy}")


def job_states(job_ids: Collection[str]) -> dict[str, str]:
    """SLURM's state of each job, by one call of sacct; jobs that accounting does not know yet are missing.

    Args:
        job_ids: such as 17 or, of an array, 17_3.

    Returns:
        job id -> PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, ...

    Raises:
        UserError: sacct is missing, or has no accounting to ask.
    """
    if not job_ids:
        return {}
    require_slurm("sacct", "sacct")
    arrays = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    command = ["sacct", "--allocations", "--parsable2", "--format=JobID,State,End", f"--jobs={','.join(arrays)}"]
    found = SlurmInfoWatcher(delay_s=SECONDS).read_info(_output(command, "sacct"))
    return {job_id: _state(found[job_id]) for job_id in job_ids if job_id in found}


def _state(info: dict[str, str]) -> str:
    # "CANCELLED by 1000" says who did it.
    state = info["State"].split(" ")[0]
    recently = info["End"].isdigit() and time.time() - int(info["End"]) < SECONDS
    return "REQUEUED" if state in QUEUED_AGAIN and recently else state


def cancel_jobs(job_ids: Collection[str]) -> None:
    """Ends jobs, running or waiting; their runs save what they have first.

    Raises:
        UserError: scancel is missing or refuses.
    """
    require_slurm("scancel", "scancel")
    ids = sorted(job_ids)
    for start in range(0, len(ids), JOBS_A_COMMAND):
        _output(["scancel", *ids[start : start + JOBS_A_COMMAND]], "scancel")


def in_one_line(text: str) -> str:
    """What a command of SLURM says, without its name in front of every line."""
    lines = [line.partition("error: ")[2] or line for line in text.strip().splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip())


def _output(command: list[str], name: str) -> str:
    try:
        environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name}: SLURM did not answer within {SECONDS} s; try again") from error
    if done.returncode:
        said = in_one_line(done.stderr) or f"exit code {done.returncode}"
        disabled = "accounting storage is disabled" in done.stderr
        remedy = (
            "states of jobs need SLURM's accounting (slurmdbd); ask who runs the cluster" if disabled else "try again"
        )
        raise UserError(f"{name}: {said}; {remedy}")
    return done.stdout
