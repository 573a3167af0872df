"""The jobs that ``ttt-sweep submit`` would send, without sending them: a script and a command for each shape."""

import shlex
from collections.abc import Mapping

from ttt.cli.sweep.request import Request
from ttt.config.cluster import ClusterConfig
from ttt.config.errors import counted
from ttt.launch.choice import shapes
from ttt.launch.plan import Plan, PlannedRun, SweepFolder
from ttt.launch.resources import Resources
from ttt.launch.script import sbatch_script
from ttt.launch.submit import job_arrays


def print_jobs(request: Request, plan: Plan, resources: Resources, runs: list[PlannedRun]) -> None:
    """Print the sbatch script of every kind of job array, and the command of every shape of run; nothing is written.

    Args:
        request: the command line, for the folder of the sweep.
        plan: the sweep.
        resources: resources of the jobs.
        runs: the runs to submit.

    Raises:
        UserError: a resource out of range.
    """
    clusters = {run.run_id: resources.of(run) for run in runs}
    if resources.cluster.executor == "local":
        print(f"{counted(len(runs), 'run')} on this machine, {resources.cluster.parallel} at a time; no script")
    else:
        _print_scripts(SweepFolder(request.folder), plan, runs, clusters)
    shape_of, shown = shapes(plan), set[str]()
    folders = {run.run_id: run.folder for run in plan.runs}
    for run in runs:
        shape = shape_of[run.run_id]
        if shape not in shown:
            shown.add(shape)
            same = sum(shape_of[other.run_id] == shape for other in runs)
            print(f"\n# a run of this shape, of {same}:\n{command(request, run, folders)}")
    print("\nnothing was submitted or written")


def command(request: Request, run: PlannedRun, folders: Mapping[str, str]) -> str:
    """Return the command that trains a run as its job does; ``folders``: run_id -> folder, of its parent."""
    words = [*run.overrides, f"runs={request.runs_folder}", "ckpt=last"]
    if run.parent is not None:
        words.append(f"from={folders[run.parent]}")
    return shlex.join(["ttt-train", *words])


def _print_scripts(folder: SweepFolder, plan: Plan, runs: list[PlannedRun], clusters: dict[str, ClusterConfig]) -> None:
    scripts: dict[str, list[list[PlannedRun]]] = {}
    for array in job_arrays(runs, clusters):
        first = array[0]
        kind = repr((clusters[first.run_id], first.nodes, first.devices, first.parent is None, len(array)))
        scripts.setdefault(kind, []).append(array)
    for arrays in scripts.values():
        array = arrays[0]
        print(f"\n# {counted(len(arrays), 'job')} of {counted(len(array), 'run')} with this script:\n")
        print(sbatch_script(folder, clusters[array[0].run_id], array, plan.sweep).strip())
