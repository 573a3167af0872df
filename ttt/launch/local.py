"""Jobs that are processes on this machine: finding out whether they run, and ending them."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

import psutil
from filelock import FileLock, Timeout

from ttt.launch.journal import JobLine
from ttt.launch.plan import SweepFolder
from ttt.results.processes import machine_id, start_ticks

START_S = 1.0
"""Seconds within which a controller that starts its run has started it."""

START_TOLERANCE_S = 5.0
"""Seconds by which a process may start after its job's line was written, where only the wall clock is known."""


def queue_lock(folder: SweepFolder) -> FileLock:
    """Return the lock that the sweep's queue process holds while it runs."""
    return FileLock(folder.path / ".queue.lock", timeout=0)


def queue_runs(folder: SweepFolder) -> bool:
    """Return whether the sweep's queue process runs."""
    if not folder.path.is_dir():
        return False
    try:
        with queue_lock(folder):
            return False
    except Timeout:
        return True


def process_states(folder: SweepFolder, jobs: Iterable[JobLine]) -> dict[str, str]:
    """Return the state of each local job, with SLURM's names.

    PENDING, or KILLED if no queue process is there to start it; RUNNING; COMPLETED, however the job ended.
    """
    local_jobs = [job for job in jobs if job["executor"] == "local"]
    states = {job["job_id"]: "RUNNING" if find_process(job) else "COMPLETED" for job in local_jobs if job["job_id"]}
    if any(not job["job_id"] for job in local_jobs):
        states[""] = "PENDING" if queue_runs(folder) else "KILLED"
    return states


def find_process(job: JobLine) -> psutil.Process | None:
    """Return the process of a local job, or None if it has ended (its id may then belong to another process)."""
    try:
        process = psutil.Process(int(job["job_id"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        latest_start = datetime.fromisoformat(job["time"]).timestamp() + START_TOLERANCE_S
        if job.get("started") is not None:
            id_reused = (job["machine"], job["started"]) != (machine_id(), start_ticks(process.pid))
        else:
            id_reused = process.create_time() > latest_start
    except (psutil.NoSuchProcess, ValueError):
        return None
    return None if ended or id_reused else process


def end_processes(jobs: Iterable[JobLine]) -> None:
    """Send SIGTERM to the runs of local jobs: they save a checkpoint and exit."""
    for job in jobs:
        controller = find_process(job)
        with suppress(psutil.NoSuchProcess):
            if controller and not controller.children():
                # Its run has not started; the controller ends, or passes the signal on to a run that starts now.
                controller.terminate()
                psutil.wait_procs([controller], START_S)
            for run in controller.children() if controller else []:
                run.terminate()
