"""Jobs for the runs of a sweep: arrays of SLURM through submitit, or a queue on this machine."""

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
"""Runs in one array: SLURM's usual MaxArraySize is 1001."""


def submit(
    folder: SweepFolder,
    asked: Asked,
    runs: list[PlannedRun],
    active: dict[str, str],
    report: Callable[[str], None],
) -> None:
    """Submits these runs, and records every job as soon as it has a number.

    Args:
        folder: the sweep's.
        asked: what jobs ask for.
        runs: what to submit, a parent before its children.
        active: run_id -> job of the sweep's other runs that wait or run.
        report: told of every array, in a line.

    Raises:
        UserError: the cluster refuses; what was submitted before that stays.
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
    """Runs of one shape that wait for the same run, together; a parent comes before its children."""
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
        # submitit shows what sbatch says as it comes, and raises it once more.
        with redirect_stderr(StringIO()), executor.batch():
            jobs = [executor.submit(job_of(folder, run, sweep)) for run in runs]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
        remedy = f"correct slurm/{shape.name}.yaml, or say slurm.KEY=VALUE"
        raise UserError(f"slurm={shape.name}: {in_one_line(str(error))}; {remedy}") from error
    return [submitted(run, job.job_id, "slurm") for run, job in zip(runs, jobs, strict=True)]
