"""The queue process of a sweep on this machine: starts the runs in order, ``parallel`` at a time.

It runs detached from the terminal (``python -m ttt.launch.queue FOLDER``). Each run is a job of submitit's local
executor, a fork of one process that has imported what runs need (``ttt.launch.forks``).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import submitit
from filelock import Timeout

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.launch.forks import ForkingExecutor, Forks, can_fork
from ttt.launch.job import make_job
from ttt.launch.journal import append_lines, local_line
from ttt.launch.local import queue_lock, queue_runs
from ttt.launch.plan import SweepFolder, read_origin, submit_lock
from ttt.launch.recover import read_jobs
from ttt.launch.resources import read_resources
from ttt.launch.slurm import outside_a_job
from ttt.launch.status import ACTIVE, RunStatus, sweep_status

Slots = dict[int, submitit.Job[None]]

POLL_S = 1.0
"""Seconds between two checks for jobs that have ended."""

START_POLL_S = 0.05
"""Seconds between two checks of whether the queue process has started."""

LOCK_WAIT_S = 5.0
"""Seconds for which a queue process tries to get its lock, which a status command holds for a moment to test it."""


def start_queue(folder: SweepFolder, cluster: ClusterConfig) -> None:
    """Start the queue process unless it runs already, and return once it holds its lock.

    Until then other commands would take its runs for runs that nobody is left to start.

    Raises:
        UserError: the process ended instead.
    """
    if queue_runs(folder):
        return
    log_path = folder.path / "queue.log"
    with log_path.open("a", encoding="utf-8") as log, outside_a_job():
        process = subprocess.Popen(
            [sys.executable, "-m", "ttt.launch.queue", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **cluster.environment},
            start_new_session=True,
        )
    while not queue_runs(folder):
        if process.poll() is not None:
            raise UserError(f"{log_path}: the queue process ended when it started; see this file")
        time.sleep(START_POLL_S)


def main() -> None:
    """Start runs as slots become free, until all runs have ended."""
    folder, slots = SweepFolder(Path(sys.argv[1])), dict[int, submitit.Job[None]]()
    lock = queue_lock(folder)
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        return
    # Its imports take seconds, in which submit_lock would keep other commands waiting.
    forks = Forks() if can_fork(read_resources(folder).cluster) else None
    while lock.is_locked:
        with submit_lock(folder):
            if not _start_runs(folder, slots, forks):
                # Released while submit_lock is held, so that later submissions start a new queue process.
                lock.release()
        time.sleep(POLL_S)
    if forks is not None:
        forks.close()


def _start_runs(folder: SweepFolder, slots: Slots, forks: Forks | None) -> bool:
    """Start queued runs in free slots; return whether any run is still waiting or running."""
    resources, origin = read_resources(folder), read_origin(folder)
    for slot in [slot for slot, job in slots.items() if job.done()]:
        del slots[slot]
    statuses = sweep_status(folder)
    _mark_orphans(folder, statuses)
    own = [status for status in statuses if not status.elsewhere]
    queued = [status.run for status in own if status.state == "queued" and not status.job_id]
    taken = {*slots, *_slots_of_lost_queue(folder, statuses, slots)}
    free = [slot for slot in range(resources.cluster.parallel) if slot not in taken]
    for slot, run in zip(free, queued, strict=False):
        job = make_job(folder, run, origin, "local")
        slots[slot] = _executor(folder, resources.of(run), slot, run.devices, forks).submit(job)
        append_lines(folder.jobs, [local_line(run, slots[slot].job_id, slot)])
    return bool(slots or queued or any(status.state == "waiting" for status in own))


def _slots_of_lost_queue(folder: SweepFolder, statuses: list[RunStatus], slots: Slots) -> list[int]:
    """Return the slots of runs that an earlier queue process started before it was lost, and that still train."""
    own = {job.job_id for job in slots.values()}
    running = {status.job_id for status in statuses if status.state == "running" and not status.elsewhere} - own
    return [job.get("slot", 0) for job in read_jobs(folder) if job["job_id"] in running and job["executor"] == "local"]


def _executor(
    folder: SweepFolder, cluster: ClusterConfig, slot: int, devices: int, forks: Forks | None
) -> submitit.LocalExecutor:
    """Return the executor of a slot, which runs one job at a time on the slot's GPUs."""
    gpus = cluster.gpus_per_task * devices
    executor = ForkingExecutor(folder.submitit, forks if can_fork(cluster) else None, cluster.requeues)
    executor.update_parameters(
        timeout_min=cluster.timeout_min,
        signal_delay_s=cluster.signal_delay_s,
        tasks_per_node=devices,
        gpus_per_node=gpus,
        visible_gpus=list(range(slot * gpus, (slot + 1) * gpus)),
        setup=cluster.setup,
    )
    return executor


def _mark_orphans(folder: SweepFolder, statuses: list[RunStatus]) -> None:
    """Mark waiting runs as orphaned when their parent will not finish."""
    states = {status.run.run_id: status.state for status in statuses}
    orphans = [
        status.run
        for status in statuses
        if status.state == "waiting" and not status.elsewhere and states[str(status.run.parent)] not in ACTIVE
    ]
    append_lines(folder.jobs, [{**local_line(run), "ended": "orphaned"} for run in orphans])


if __name__ == "__main__":
    main()
