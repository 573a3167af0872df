"""Cancelling jobs."""

from typing import cast

from ttt.launch.journal import Submitted, append, read
from ttt.launch.local import end_processes
from ttt.launch.plan import SweepFolder
from ttt.launch.slurm import cancel_jobs


def cancel_runs(folder: SweepFolder, run_ids: list[str]) -> None:
    """Cancel the last job of each run; a run that is training saves a checkpoint first.

    Raises:
        UserError: SLURM refuses.
    """
    last: dict[str, Submitted] = {}
    for line in cast(list[Submitted], read(folder.jobs)):
        last[line["run_id"]] = line
    jobs = [last[run_id] for run_id in run_ids]
    # Recorded before the jobs end, so that nobody sees them as killed in between.
    append(folder.jobs, [{**job, "ended": "cancelled"} for job in jobs])
    in_slurm = [job["job_id"] for job in jobs if job["executor"] == "slurm"]
    if in_slurm:
        cancel_jobs(in_slurm)
    end_processes(job for job in jobs if job["executor"] == "local")
