"""The jobs of a sweep's runs, including jobs of sweeps in neighbouring folders, which may share runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ttt.config.errors import UserError
from ttt.launch import local
from ttt.launch.journal import JobEnd, JobLine, read_lines
from ttt.launch.plan import PLAN_FILE, PlannedRun, SweepFolder, read_runs
from ttt.launch.slurm import job_states

JobKey = tuple[Path, str]
"""Folder of the sweep and job id. Local jobs that wait have no id yet."""


@dataclass(frozen=True)
class RunJob:
    """A job: its line in ``jobs.jsonl``, and the folder of the sweep that submitted it."""

    line: JobLine
    sweep: Path

    @property
    def key(self) -> JobKey:
        """Unique key of the job."""
        return self.sweep, self.line["job_id"]


def jobs_by_run(folder: SweepFolder, runs: list[PlannedRun]) -> dict[str, list[RunJob]]:
    """Return the jobs of each run in order of submission, from this sweep and from those in neighbouring folders.

    Raises:
        UserError: a file of this sweep is broken.
    """
    run_folders = {run.run_id: run.folder for run in runs}
    jobs: dict[str, list[RunJob]] = {run_id: [] for run_id in run_folders}
    for sweep in (folder, *_neighbours(folder)):
        shared = run_folders.keys() if sweep is folder else _shared_runs(sweep, run_folders)
        for line in read_lines(sweep.jobs) if shared else []:
            if line["run_id"] in shared:
                jobs[line["run_id"]].append(RunJob(cast(JobLine, line), sweep.path))
    for jobs_of_run in jobs.values():
        jobs_of_run.sort(key=lambda job: job.line["time"])
    return jobs


def states_by_job(jobs: list[RunJob]) -> dict[JobKey, str]:
    """Return the SLURM state of each job by its key; jobs that accounting does not know yet are missing.

    Raises:
        UserError: SLURM does not answer.
    """
    in_slurm = job_states({job.line["job_id"] for job in jobs if job.line["executor"] == "slurm"})
    states = {job.key: in_slurm[job.line["job_id"]] for job in jobs if job.line["job_id"] in in_slurm}
    for sweep in {job.sweep for job in jobs if job.line["executor"] == "local"}:
        lines = [job.line for job in jobs if job.sweep == sweep]
        local_states = local.process_states(SweepFolder(sweep), lines)
        states |= {(sweep, job_id): state for job_id, state in local_states.items()}
    return states


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


def _shared_runs(sweep: SweepFolder, run_folders: dict[str, str]) -> set[str]:
    """Return the runs that the other sweep shares, in the same folders; a broken plan counts as empty."""
    try:
        return {run.run_id for run in read_runs(sweep) if run_folders.get(run.run_id) == run.folder}
    except UserError:
        return set()
