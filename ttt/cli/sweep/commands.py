"""The commands of ``ttt-sweep``. Each raises ``UserError`` for a mistake of the user or an error of the cluster."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttt.cli.sweep.expand import change_cluster, expand, load_cluster, load_sweep
from ttt.cli.sweep.overrides import with_overrides
from ttt.cli.sweep.request import COMMON_KEYS, Request
from ttt.cli.sweep.tables import cost_table, status_table
from ttt.config.errors import UserError
from ttt.launch.cancel import cancel_runs
from ttt.launch.collect import copy_results
from ttt.launch.cost import run_costs
from ttt.launch.logs import log_files, tail
from ttt.launch.plan import Plan, SweepFolder, freeze, submit_lock
from ttt.launch.resources import Resources, read_resources, write_resources
from ttt.launch.status import ACTIVE, BROKEN, RunStatus, sweep_status
from ttt.launch.submit import submit as submit_runs
from ttt.results.atomic import write_text


def plan(request: Request) -> None:
    """Print the runs of the sweep and their estimated cost."""
    device, utilisation = request.options.get("device", "h100"), request.number("utilisation", 0.4, 0)
    print(cost_table(run_costs(_expand(request), device, utilisation), device, utilisation))


def submit(request: Request) -> None:
    """Submit every run that is neither finished nor queued nor running."""
    resources = _new_resources(request)
    sweep_plan = _expand(request)
    for run in sweep_plan.runs:
        resources.of(run)
    folder = SweepFolder(request.folder)
    folder.make()
    with submit_lock(folder):
        freeze(sweep_plan, folder)
        statuses = sweep_status(folder)
        open_runs = [status for status in statuses if status.state not in (*ACTIVE, "finished")]
        _submit(request, folder, resources, statuses, _worth_retrying(open_runs))


def status(request: Request) -> None:
    """Print one line per run, or the folders of finished runs; with ``--watch``, until all runs have ended."""
    folder, interval = SweepFolder(request.folder), request.number("interval", 10, 1)
    while True:
        statuses = sweep_status(folder)
        if "--json" in request.flags:
            print(json.dumps([_as_json(status) for status in statuses], indent=1))
        elif "--folders" in request.flags:
            sys.stdout.writelines(f"{status.run.folder}\n" for status in statuses if status.state == "finished")
        else:
            clear = "\x1b[H\x1b[2J" if "--watch" in request.flags and sys.stdout.isatty() else ""
            print(clear + status_table(statuses), flush=True)
        if "--watch" not in request.flags or not any(status.state in ACTIVE for status in statuses):
            return
        time.sleep(interval)


def retry(request: Request) -> None:
    """Submit again the runs that failed, were killed, timed out or are orphaned."""
    folder = SweepFolder(request.folder)
    resources = read_resources(folder)
    if "slurm" in request.options:
        resources = _new_resources(request)
    elif request.cluster_changes:
        changed = tuple(sorted({*resources.changed, *_changed_keys(request)}))
        resources = Resources(change_cluster(resources.cluster, request.cluster_changes), changed)
    with submit_lock(folder):
        statuses = sweep_status(folder)
        chosen = _select(request, statuses, [status for status in statuses if status.state in BROKEN])
        if request.options.get("force") != "true":
            chosen = _worth_retrying(chosen)
        _submit(request, folder, resources, statuses, chosen)


def cancel(request: Request) -> None:
    """Cancel the runs that wait or run; a run that is training saves a checkpoint first."""
    folder = SweepFolder(request.folder)
    statuses = sweep_status(folder)
    with submit_lock(folder):
        active = [status for status in statuses if status.state in ACTIVE and not status.elsewhere]
        chosen = _select(request, statuses, active)
        cancel_runs(folder, [status.run.run_id for status in chosen])
    print(f"{len(chosen)} cancelled; ttt-sweep submit submits them again")


def logs(request: Request) -> None:
    """Print the last lines of the log files of a run's last job."""
    folder = SweepFolder(request.folder)
    if not request.run_names:
        raise UserError("ttt-sweep logs: name a run; ttt-sweep status lists them")
    statuses = sweep_status(folder)
    for chosen in _select(request, statuses, statuses):
        for path in log_files(folder, chosen):
            print(f"==> {path} <==\n{tail(path, int(request.number('lines', 40, 1)))}")


def collect(request: Request) -> None:
    """Copy records and metrics of the sweep's runs into a folder, with a table of all runs."""
    out = Path(request.required("out"))
    # Importing pandas takes a second, and the other commands do not need it.
    from ttt.cli.results import read_results

    statuses, table = sweep_status(SweepFolder(request.folder)), out / "runs.csv"
    copy_results(statuses, out)
    write_text(table, read_results(out, strict=True).runs.drop(columns="run_dir").to_csv(index=False))
    for status in statuses:
        if status.state != "finished":
            print(f"not finished: {status.run.run_id} ({status.state})", file=sys.stderr)
    finished = sum(status.state == "finished" for status in statuses)
    print(f"{table}: {finished} of {len(statuses)} runs are finished; draw them with ttt-plot --all runs={out}")
    deleted = [status.run.folder for status in statuses if status.state == "deleted"]
    if deleted:
        raise UserError(f"{', '.join(deleted)}: deleted after training had finished; ttt-sweep retry trains it again")


COMMANDS: dict[str, Callable[[Request], None]] = {
    command.__name__: command for command in (plan, submit, status, retry, cancel, logs, collect)
}


def _expand(request: Request) -> Plan:
    """Return the plan of the requested sweep; show the progress on a terminal."""
    sweep = with_overrides(load_sweep(request.required("sweep"), request.options.get("scale")), request.overrides)

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rcomposing {done}/{total}", end=end, file=sys.stderr, flush=True)

    return expand(sweep, request.runs_folder, report)


def _new_resources(request: Request) -> Resources:
    return Resources(load_cluster(request.required("slurm"), request.cluster_changes), _changed_keys(request))


def _changed_keys(request: Request) -> tuple[str, ...]:
    return tuple(change.partition("=")[0] for change in request.cluster_changes)


def _submit(
    request: Request, folder: SweepFolder, resources: Resources, statuses: list[RunStatus], chosen: list[RunStatus]
) -> None:
    active = {status.run.run_id: status.job_id for status in statuses if status.state in ACTIVE}
    if chosen:
        write_resources(folder, resources)
        submit_runs(folder, resources, [status.run for status in chosen], active, print)
    finished = sum(status.state == "finished" for status in statuses)
    print(
        f"{len(chosen)} submitted, {len(active)} were queued or running, {finished} finished, of {len(statuses)} runs"
    )
    if chosen or active:
        options = [f"{key}={request.options[key]}" for key in COMMON_KEYS if key in request.options]
        print(f"watch them: ttt-sweep status {' '.join(options)} --watch")


def _worth_retrying(statuses: list[RunStatus]) -> list[RunStatus]:
    """Return the runs that are worth another try, and print the others."""
    for status in statuses:
        if status.given_up:
            why = f"failed three times in the same way ({status.detail or status.state})"
            print(f"left out: {status.run.run_id} {why}; ttt-sweep retry {status.run.run_id} force=true retries it")
    return [status for status in statuses if not status.given_up]


def _select(request: Request, statuses: list[RunStatus], selectable: list[RunStatus]) -> list[RunStatus]:
    """Return the selectable runs that the command line names, or all of them if it names none."""
    if not request.run_names:
        return selectable
    return [_find(request, name, statuses, selectable) for name in request.run_names]


def _find(request: Request, name: str, statuses: list[RunStatus], selectable: list[RunStatus]) -> RunStatus:
    matches = [status for status in statuses if name in status.run.run_id]
    matches = [status for status in matches if status.run.run_id == name] or matches
    if len(matches) != 1:
        examples = ", ".join(status.run.run_id for status in matches[:3]) or "ttt-sweep status lists the runs"
        raise UserError(f"{name}: {'matches several runs' if matches else 'no such run'}: {examples}")
    (status,) = matches
    if status not in selectable:
        where = f" in folder={status.elsewhere}" if status.elsewhere else ""
        raise UserError(f"{status.run.run_id}: is {status.state}{where}; nothing to {request.command}")
    return status


def _as_json(status: RunStatus) -> dict[str, Any]:
    plain = asdict(status)
    run = plain.pop("run")
    identity = {key: run[key] for key in ("run_id", "folder", "parent")}
    elsewhere = str(status.elsewhere) if status.elsewhere else None
    return {**identity, **plain, "steps_planned": run["steps"], "elsewhere": elsewhere}
