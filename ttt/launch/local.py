"""Jobs that are processes on this machine: whether they live, and how they are asked to end."""

from collections.abc import Iterable
from datetime import datetime

import psutil
from filelock import FileLock, Timeout

from ttt.launch.journal import Submitted
from ttt.launch.plan import SweepFolder

LATER = 5.0
"""Seconds that a job's line may be older than its process."""


def queue_lock(folder: SweepFolder) -> FileLock:
    """Held by the process that starts the sweep's jobs on this machine, as long as it lives."""
    return FileLock(folder.path / ".queue.lock", timeout=0)


def queue_lives(folder: SweepFolder) -> bool:
    """Whether there is such a process."""
    if not folder.path.is_dir():
        return False
    try:
        with queue_lock(folder):
            return False
    except Timeout:
        return True


def process_states(folder: SweepFolder, jobs: Iterable[Submitted]) -> dict[str, str]:
    """The state of each local job in SLURM's words: PENDING, RUNNING or, ended in whatever way, COMPLETED."""
    local = [job for job in jobs if job["executor"] == "local"]
    waiting = "PENDING" if any(not job["job_id"] for job in local) and queue_lives(folder) else "KILLED"
    return {
        job["job_id"]: waiting if not job["job_id"] else "RUNNING" if process_of(job) else "COMPLETED" for job in local
    }


def process_of(job: Submitted) -> psutil.Process | None:
    """The process of a local job, None when it has ended; another one may have its number by now."""
    try:
        process = psutil.Process(int(job["job_id"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        started = process.create_time()
    except (psutil.NoSuchProcess, ValueError):
        return None
    another = started > datetime.fromisoformat(job["time"]).timestamp() + LATER
    return None if ended or another else process


def end_processes(jobs: Iterable[Submitted]) -> None:
    """Asks the runs of local jobs to save what they have and end."""
    for job in jobs:
        controller = process_of(job)
        for run in controller.children() if controller else []:
            run.terminate()
