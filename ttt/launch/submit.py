"""Submitting the runs of a sweep: as SLURM job arrays through submitit, or to a queue on this machine."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.launch.journal import Submitted, append, submitted
from ttt.launch.plan import PlannedRun, SweepFolder, read_name
from ttt.launch.queue import start_queue
from ttt.launch.shape import Asked, job_of, slurm_parameters
from ttt.launch.slurm import in_one_line, require_slurm

ARRAY = 1000
"""Largest number of runs in one array; SLURM's default MaxArraySize is 1001."""


def submit(
    folder: SweepFolder,
    asked: Asked,
    runs: list[PlannedRun],
    active: dict[str, str],
    report: Callable[[str], None],
) -> None:
    """Submit runs, and record every job as soon as it has an id.

    Args:
        folder: the sweep's folder.
        asked: resources of the jobs.
        runs: runs to submit, parents before their children.
        active: run_id -> job id of the sweep's other runs that wait or run.
        report: called with one line per array.

    Raises:
        UserError: the cluster refuses; jobs submitted before that remain.
    """
    shapes = {run.run_id: asked.shape(run) for run in runs}
    if asked.cluster.executor == "local":
        append(folder.jobs, [submitted(run, "", "local") for run in runs])
        start_queue(folder, asked.cluster)
        report(f"{len(runs)} runs on this machine, {asked.cluster.parallel} at a time")
        return
    require_slurm("sbatch", asked.cluster.name)
    jobs = dict(active)
    for members in arrays(runs, shapes):
        parent = members[0].parent
        dependency = jobs.get(parent) if parent else None
        lines = _submit_array(folder, members, shapes[members[0].run_id], dependency)
        append(folder.jobs, lines)
        jobs |= {line["run_id"]: line["job_id"] for line in lines}
        first, after = lines[0]["job_id"].partition("_")[0], f", after {dependency}" if dependency else ""
        report(f"job {first}: {len(lines)} {'run' if len(lines) == 1 else 'runs'}{after}")


def arrays(runs: list[PlannedRun], shapes: dict[str, ClusterConfig]) -> Iterator[list[PlannedRun]]:
    """Group runs that have the same resources and the same parent; parents come before their children."""
    generation: dict[str | None, int] = {None: -1}
    for run in runs:
        generation[run.run_id] = generation.get(run.parent, -1) + 1

    alike: dict[tuple[Any, ...], list[PlannedRun]] = {}
    for run in sorted(runs, key=lambda run: generation[run.run_id]):
        key = generation[run.run_id], run.parent, run.nodes, run.devices, str(shapes[run.run_id])
        alike.setdefault(key, []).append(run)
    for members in alike.values():
        yield from (members[start : start + ARRAY] for start in range(0, len(members), ARRAY))


def _submit_array(
    folder: SweepFolder, runs: list[PlannedRun], shape: ClusterConfig, dependency: str | None
) -> list[Submitted]:
    sweep = read_name(folder)
    executor = submitit.AutoExecutor(folder.submitit, cluster="slurm", slurm_max_num_timeout=shape.requeues)
    executor.update_parameters(**slurm_parameters(shape, runs[0], sweep, dependency))
    try:
        # submitit prints sbatch's errors as they come and raises them again.
        with redirect_stderr(StringIO()), executor.batch():
            jobs = [executor.submit(job_of(folder, run, sweep)) for run in runs]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        remedy = f"correct slurm/{shape.name}.yaml, or set slurm.KEY=VALUE"
        raise UserError(f"slurm={shape.name}: {in_one_line(str(error))}; {remedy}") from error
    return [submitted(run, job.job_id, "slurm") for run, job in zip(runs, jobs, strict=True)]
