"""Cancelling jobs."""

from typing import Any

from ttt.launch.journal import append_lines
from ttt.launch.local import end_processes
from ttt.launch.plan import SweepFolder
from ttt.launch.recover import read_jobs
from ttt.launch.slurm import cancel_jobs


def cancel_runs(folder: SweepFolder, run_ids: list[str]) -> None:
    """Cancel the last job of each run; a run that is training saves a checkpoint first.

    Raises:
        UserError: SLURM refuses.
    """
    last_job = {line["run_id"]: line for line in read_jobs(folder)}
    jobs: list[Any] = [last_job[run_id] for run_id in run_ids]
    # Recorded before the jobs end, so that their status is never "killed" in between.
    append_lines(folder.jobs, [{**job, "ended": "cancelled"} for job in jobs])
    in_slurm = [job["job_id"] for job in jobs if job["executor"] == "slurm"]
    if in_slurm:
        cancel_jobs(in_slurm)
    end_processes(job for job in jobs if job["executor"] == "local")
