"""The commands of ``ttt-sweep``. Each raises ``UserError`` for a mistake of the user or an error of the cluster."""

import json
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ttt.cli.sweep.dry import print_jobs
from ttt.cli.sweep.epochs import repeated_reading
from ttt.cli.sweep.expand import expand, load_sweep
from ttt.cli.sweep.known import compare_data, count_known, known_folder, known_status, trained_for_weights
from ttt.cli.sweep.overrides import with_overrides
from ttt.cli.sweep.request import Request
from ttt.cli.sweep.run import run
from ttt.cli.sweep.submit import new_resources, retry, select
from ttt.cli.sweep.submit import submit as submit_sweep
from ttt.cli.sweep.tables import cost_table, memory_table, status_table
from ttt.cli.sweep.times import DEFAULT_GPU, HERE, times_of
from ttt.cli.terminal import STATES, show
from ttt.config.errors import UserError, counted
from ttt.config.system import user_path
from ttt.config.text_table import WIDTH
from ttt.launch.cancel import cancel_runs
from ttt.launch.choice import with_reasons
from ttt.launch.collect import copy_results
from ttt.launch.cost import run_costs, step_memories
from ttt.launch.logs import log_files, tail
from ttt.launch.plan import Plan, SweepFolder, read_runs, submit_lock
from ttt.launch.status import ACTIVE, RunStatus, sweep_status
from ttt.results.atomic import write_text


def plan(request: Request) -> None:
    """Print the runs of the sweep, their estimated cost, and how often they read their text if more than once.

    With ``slurm=`` it also prints the jobs that ``submit`` would send; see ``print_jobs``. With ``memory=true`` it also
    prints the counted memory of a step, which takes seconds for each size and context.
    """
    resources = new_resources(request) if "slurm" in request.options else None
    device, utilisation = request.options.get("device"), request.number("utilisation", 0.4, 0)
    found = _expand(request, labels=False)
    known = known_folder(request, SweepFolder(request.folder))
    statuses = count_known(known, [RunStatus(run) for run in found.runs])
    made = {status.run.run_id: status.detail for status in statuses if status.state == "finished"}
    notes = [*compare_data(known, found), *trained_for_weights(statuses)]
    gpu = DEFAULT_GPU if device in (None, HERE) else device
    costs = run_costs(found, gpu, utilisation)
    times = times_of(found, costs, device, utilisation, request.runs_folder, made)
    show(cost_table(found, costs, times, made, "--wide" in request.flags), STATES, heading=True)
    if request.switch("memory"):
        print(memory_table(step_memories(found, gpu), gpu))
    for line in (*notes, *repeated_reading(found)):
        print(textwrap.fill(line, WIDTH, break_on_hyphens=False))
    if resources is not None:
        print_jobs(request, found, resources, [run for run in found.runs if run.run_id not in made])


def submit(request: Request) -> None:
    """Submit the runs of the sweep that are not finished, queued or running."""
    submit_sweep(request, _expand)


def status(request: Request) -> None:
    """Print one line per run, or the folders of the runs finished here; with ``--watch``, until all runs have ended."""
    folder, interval = SweepFolder(request.folder), request.number("interval", 10, 1)
    before: list[RunStatus] = []
    while True:
        statuses = with_reasons(folder, known_status(request, folder))
        if "--json" in request.flags:
            print(json.dumps([_as_json(status) for status in statuses], indent=1))
        elif "--folders" in request.flags:
            made_here = (status for status in statuses if status.state == "finished" and not status.known)
            sys.stdout.writelines(f"{status.run.folder}\n" for status in made_here)
        else:
            _show_status(request, statuses, before)
        before = statuses
        if "--watch" not in request.flags or not any(status.state in ACTIVE for status in statuses):
            return
        time.sleep(interval)


def _show_status(request: Request, statuses: list[RunStatus], before: list[RunStatus]) -> None:
    """Print the table; a watch that is written into a file prints later the time and the runs that have changed."""
    watch, wide = "--watch" in request.flags, "--wide" in request.flags
    if watch and not sys.stdout.isatty() and before:
        states = {status.run.run_id: (status.state, status.detail) for status in before}
        changed = [status for status in statuses if states.get(status.run.run_id) != (status.state, status.detail)]
        if changed:
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S}\n{status_table(changed, wide)}", flush=True)
        return
    clear = "\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else ""
    print(clear, end="")
    show(status_table(statuses, wide), STATES, heading=True)


def cancel(request: Request) -> None:
    """Cancel the runs that wait or run; a run that is training saves a checkpoint first."""
    folder = SweepFolder(request.folder)
    read_runs(folder)  # the lock would create a folder that is missing
    with submit_lock(folder):
        statuses = sweep_status(folder)
        active = [status for status in statuses if status.state in ACTIVE and not status.elsewhere]
        chosen = select(request, statuses, active)
        cancel_runs(folder, [status.run.run_id for status in chosen])
    print(f"{len(chosen)} cancelled; ttt-sweep submit submits them again")


def logs(request: Request) -> None:
    """Print the last lines of the log files of a run's last job."""
    folder = SweepFolder(request.folder)
    if not request.run_names:
        raise UserError("ttt-sweep logs: name a run; ttt-sweep status lists them")
    statuses, lines = sweep_status(folder), request.whole_number("lines", 1) or 40
    for chosen in select(request, statuses, statuses):
        for path in log_files(folder, chosen):
            print(f"==> {path} <==\n{tail(path, lines)}")


def collect(request: Request) -> None:
    """Copy records and metrics of the sweep's runs into a folder, with a table of all runs."""
    out = user_path(request.required("out"))
    statuses, table = known_status(request, SweepFolder(request.folder)), out / "runs.csv"
    for line in copy_results(statuses, out):
        print(line, file=sys.stderr)
    write_text(table, table_of_runs(out))
    for status in statuses:
        if status.state != "finished":
            print(f"not finished: {status.run.run_id} ({status.state})", file=sys.stderr)
    finished = sum(status.state == "finished" for status in statuses)
    print(f"{table}: {finished} of {counted(len(statuses), 'run')} finished; draw them with ttt-plot --all runs={out}")
    deleted = [status.run.folder for status in statuses if status.state == "deleted"]
    if deleted:
        raise UserError(f"{', '.join(deleted)}: deleted after training had finished; ttt-sweep retry trains it again")


def table_of_runs(folder: Path) -> str:
    """Return the records of all runs below a folder as CSV.

    There is a column for every key in which the runs differ, and for every score on a task.
    """
    # Importing pandas takes a second, and the other commands do not need it.
    from ttt.analysis.scores import scores_by_run
    from ttt.analysis.varied import varied
    from ttt.cli.results import read_results

    results = read_results(folder, strict=True)
    table = results.runs.drop(columns="run_dir").join(varied(results)).join(scores_by_run(results))
    return str(table.to_csv(index=False))


COMMANDS: dict[str, Callable[[Request], None]] = {
    command.__name__: command for command in (plan, submit, run, status, retry, cancel, logs, collect)
}


def _expand(request: Request, labels: bool = True) -> Plan:
    """Return the plan of the requested sweep, with labels for the records; show the progress on a terminal."""
    sweep = with_overrides(load_sweep(request.required("sweep"), request.options.get("scale")), request.overrides)

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rcomposing {done}/{total}", end=end, file=sys.stderr, flush=True)

    return expand(sweep, request.runs_folder, report, labels)


def _as_json(status: RunStatus) -> dict[str, Any]:
    plain = asdict(status)
    run = plain.pop("run")
    identity = {key: run[key] for key in ("run_id", "folder", "parent")}
    paths = {key: str(plain[key]) if plain[key] else None for key in ("elsewhere", "known")}
    return {**identity, **plain, "steps_planned": run["steps"], **paths}
