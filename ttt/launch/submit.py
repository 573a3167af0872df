"""Submitting the runs of a sweep: as SLURM job arrays through submitit, or to a queue on this machine."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError, counted
from ttt.launch.job import make_job
from ttt.launch.journal import JobLine, append_lines, local_line, slurm_line
from ttt.launch.plan import PlannedRun, SweepFolder, read_origin
from ttt.launch.queue import start_queue
from ttt.launch.resources import Resources, slurm_parameters
from ttt.launch.slurm import one_line, outside_a_job, require_slurm

LIMITS = {
    "MaxSubmit": "submit some of the runs with limit=N, and the others with the same command later",
    "job array specification": "choose a smaller slurm.array_size=N",
}
"""A part of SLURM's message about a limit -> remedy."""


def submit(
    folder: SweepFolder,
    resources: Resources,
    runs: list[PlannedRun],
    active: dict[str, str],
    report: Callable[[str], None],
) -> None:
    """Submit runs, and record every job as soon as it has an id.

    Args:
        folder: the sweep's folder.
        resources: resources of the jobs.
        runs: runs to submit, parents before their children.
        active: run_id -> job id of the sweep's other runs that wait or run.
        report: called with one line per array.

    Raises:
        UserError: SLURM is not installed or refuses a job, or the disk is full; jobs submitted before it remain.
    """
    clusters = {run.run_id: resources.of(run) for run in runs}
    if resources.cluster.executor == "local":
        append_lines(folder.jobs, [local_line(run) for run in runs])
        start_queue(folder, resources.cluster)
        report(f"{counted(len(runs), 'run')} on this machine, {resources.cluster.parallel} at a time")
        return
    require_commands(resources.cluster)
    jobs = dict(active)
    for array in job_arrays(runs, clusters):
        first_run = array[0]
        dependency = jobs.get(first_run.parent) if first_run.parent else None
        lines = _submit_array(folder, array, clusters[first_run.run_id], dependency)
        append_lines(folder.jobs, lines)
        jobs |= {line["run_id"]: line["job_id"] for line in lines}
        array_id = lines[0]["job_id"].partition("_")[0]
        after = f", after {dependency}" if dependency else ""
        report(f"job {array_id}: {counted(len(lines), 'run')}{after}")


def require_commands(cluster: ClusterConfig) -> None:
    """Check that the commands of SLURM that a submission needs are installed; submitit also looks for srun.

    Raises:
        UserError: one is not installed.
    """
    if cluster.executor == "slurm":
        for command in ("sbatch", "srun"):
            require_slurm(command, cluster.name)


def job_arrays(runs: list[PlannedRun], clusters: dict[str, ClusterConfig]) -> Iterator[list[PlannedRun]]:
    """Group runs that have the same resources and the same parent; parents come before their children."""
    generation: dict[str | None, int] = {None: -1}
    for run in runs:
        generation[run.run_id] = generation.get(run.parent, -1) + 1
    groups: dict[tuple[Any, ...], list[PlannedRun]] = {}
    for run in sorted(runs, key=lambda run: generation[run.run_id]):
        key = generation[run.run_id], run.parent, run.nodes, run.devices, str(clusters[run.run_id])
        groups.setdefault(key, []).append(run)
    for group in groups.values():
        size = clusters[group[0].run_id].array_size
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _submit_array(
    folder: SweepFolder, runs: list[PlannedRun], cluster: ClusterConfig, dependency: str | None
) -> list[JobLine]:
    origin = read_origin(folder)
    executor = submitit.AutoExecutor(folder.submitit, cluster="slurm", slurm_max_num_timeout=cluster.requeues)
    executor.update_parameters(**slurm_parameters(cluster, runs[0], origin.sweep, dependency))
    try:
        # submitit prints sbatch's errors as they come and raises them again.
        with outside_a_job(), redirect_stderr(StringIO()), executor.batch():
            jobs = [executor.submit(make_job(folder, run, origin, "slurm")) for run in runs]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        line, remedy = one_line(str(error)), f"correct slurm/{cluster.name}.yaml, or set slurm.KEY=VALUE"
        remedy = next((other for part, other in LIMITS.items() if part in line), remedy)
        raise UserError(f"slurm={cluster.name}: {line}; {remedy}") from error
    except OSError as error:
        line = f"{folder.submitit}: cannot be written ({error.strerror}); free disk space"
        raise UserError(f"{line}, then submit again") from error
    name = str(cluster.additional.get("job-name", origin.sweep))
    return [slurm_line(run, job.job_id, name) for run, job in zip(runs, jobs, strict=True)]
