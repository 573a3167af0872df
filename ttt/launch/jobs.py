"""The jobs of a sweep's runs, including jobs of sweeps in neighbouring folders, which may share runs."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from ttt.config.errors import UserError
from ttt.launch import local
from ttt.launch.journal import JobEnd, JobLine, read_lines
from ttt.launch.plan import PLAN_FILE, PlannedRun, SweepFolder, read_runs
from ttt.launch.recover import read_jobs
from ttt.launch.slurm import SlurmJob, job_states

JobKey = tuple[Path, str]
"""Folder of the sweep and job id. Local jobs that wait have no id yet."""


@dataclass(frozen=True)
class RunJob:
    """A job: its line in ``jobs.jsonl``, the folder of the sweep that submitted it, and a time to sort jobs by."""

    line: JobLine
    sweep: Path
    since: str

    @property
    def key(self) -> JobKey:
        """Unique key of the job."""
        return self.sweep, self.line["job_id"]


def jobs_by_run(folder: SweepFolder, runs: list[PlannedRun]) -> dict[str, list[RunJob]]:
    """Return the jobs of each run in order of submission, from this sweep and from those in neighbouring folders.

    Raises:
        UserError: a file of this sweep is broken.
    """
    folders = {run.run_id: Path(run.folder).parent for run in runs}
    jobs: dict[str, list[RunJob]] = {run_id: [] for run_id in folders}
    for sweep in (folder, *_neighbours(folder)):
        shared = folders.keys() if sweep is folder else _shared_runs(sweep, folders)
        latest = ""
        for line in read_jobs(sweep) if shared else []:
            # The order in a file counts more than its times: a clock may have been set back.
            latest = max(latest, line["time"])
            if line["run_id"] in shared:
                jobs[line["run_id"]].append(RunJob(line, sweep.path, latest))
    for jobs_of_run in jobs.values():
        jobs_of_run.sort(key=lambda job: job.since)
    return jobs


def states_by_job(jobs: list[RunJob]) -> dict[JobKey, str]:
    """Return the SLURM state of each job by its key; jobs that accounting does not know yet are missing.

    Raises:
        UserError: SLURM does not answer.
    """
    submitted = {job.key: slurm_job(job.line) for job in jobs if job.line["executor"] == "slurm"}
    in_slurm = job_states(submitted.values())
    states = {key: in_slurm[job] for key, job in submitted.items() if job in in_slurm}
    for sweep in {job.sweep for job in jobs if job.line["executor"] == "local"}:
        lines = [job.line for job in jobs if job.sweep == sweep]
        local_states = local.process_states(SweepFolder(sweep), lines)
        states |= {(sweep, job_id): state for job_id, state in local_states.items()}
    return states


def slurm_job(line: JobLine) -> SlurmJob:
    """Return a job of SLURM as it was recorded."""
    return SlurmJob(line["job_id"], line.get("name"), datetime.fromisoformat(line["time"]).timestamp())


def ends_of_run(run: PlannedRun, jobs: list[RunJob]) -> list[JobEnd]:
    """Return the recorded ends of the run's jobs.

    Raises:
        UserError: a file is broken.
    """
    sweeps = dict.fromkeys(job.sweep for job in jobs)
    return [cast(JobEnd, end) for sweep in sweeps for end in read_lines(SweepFolder(sweep).ends(run.run_id))]


def _neighbours(folder: SweepFolder) -> list[SweepFolder]:
    plans = sorted(folder.path.parent.glob(f"*/{PLAN_FILE}"))
    return [SweepFolder(plan.parent) for plan in plans if plan.parent != folder.path]


def _shared_runs(sweep: SweepFolder, folders: dict[str, Path]) -> set[str]:
    """Return the runs that the other sweep shares, below the same folders; a broken plan counts as empty."""
    try:
        return {run.run_id for run in read_runs(sweep) if folders.get(run.run_id) == Path(run.folder).parent}
    except UserError:
        return set()
