"""What each command of ``ttt-sweep`` does."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttt.cli.sweep.expand import change_cluster, expand, load_cluster, load_sweep
from ttt.cli.sweep.request import Request
from ttt.cli.sweep.tables import price_table, status_table
from ttt.config.errors import UserError
from ttt.launch.cancel import cancel_runs
from ttt.launch.logs import log_files, tail
from ttt.launch.plan import Plan, SweepFolder, freeze, submit_lock
from ttt.launch.price import price
from ttt.launch.shape import Asked, read_asked, write_asked
from ttt.launch.status import ACTIVE, BROKEN, RunStatus, sweep_status
from ttt.launch.submit import submit as send


def plan(request: Request) -> None:
    """Prints what the sweep would train, and what that costs.

    Raises:
        UserError: the sweep does not compose, or the price cannot be given.
    """
    device, utilisation = request.own.get("device", "h100"), request.number("utilisation", 0.4, 0)
    print(price_table(price(_expand(request), device, utilisation), device, utilisation))


def submit(request: Request) -> None:
    """Submits every run that is neither finished nor queued nor running.

    Raises:
        UserError: the sweep does not compose, its folder holds another plan, or the cluster refuses.
    """
    asked = Asked(load_cluster(request.required("slurm"), request.cluster), _changed(request))
    expanded = _expand(request)
    for run in expanded.runs:
        asked.shape(run)
    folder = SweepFolder(request.folder)
    folder.make()
    with submit_lock(folder):
        freeze(expanded, folder)
        statuses = sweep_status(folder)
        again = [status for status in statuses if status.state not in (*ACTIVE, "finished")]
        _submit(request, folder, asked, statuses, _hopeful(again))


def status(request: Request) -> None:
    """Prints a line for every run, or the folders of those that are finished, once or until nothing runs any more.

    Raises:
        UserError: there is no such sweep, or SLURM cannot be asked.
    """
    folder, interval = SweepFolder(request.folder), request.number("interval", 10, 1)
    while True:
        statuses = sweep_status(folder)
        if "--json" in request.flags:
            print(json.dumps([_plain(status) for status in statuses], indent=1))
        elif "--folders" in request.flags:
            sys.stdout.writelines(f"{status.run.folder}\n" for status in statuses if status.state == "finished")
        else:
            clear = "\x1b[H\x1b[2J" if "--watch" in request.flags and sys.stdout.isatty() else ""
            print(clear + status_table(statuses), flush=True)
        if "--watch" not in request.flags or not any(status.state in ACTIVE for status in statuses):
            return
        time.sleep(interval)


def retry(request: Request) -> None:
    """Submits again what failed, was killed, timed out or lost the run that it starts from.

    Raises:
        UserError: there is no such sweep or run, or the cluster refuses.
    """
    folder = SweepFolder(request.folder)
    asked = read_asked(folder)
    if "slurm" in request.own:
        asked = Asked(load_cluster(request.own["slurm"], request.cluster), _changed(request))
    elif request.cluster:
        changed = tuple(sorted({*asked.changed, *_changed(request)}))
        asked = Asked(change_cluster(asked.cluster, request.cluster), changed)
    with submit_lock(folder):
        statuses = sweep_status(folder)
        chosen = _named(request, statuses, [status for status in statuses if status.state in BROKEN])
        if request.own.get("force") != "true":
            chosen = _hopeful(chosen)
        _submit(request, folder, asked, statuses, chosen)


def cancel(request: Request) -> None:
    """Ends what waits or runs; a run that trains saves what it has.

    Raises:
        UserError: there is no such sweep or run, or SLURM refuses.
    """
    folder = SweepFolder(request.folder)
    statuses = sweep_status(folder)
    with submit_lock(folder):
        own = [status for status in statuses if status.state in ACTIVE and not status.elsewhere]
        chosen = _named(request, statuses, own)
        cancel_runs(folder, [status.run.run_id for status in chosen])
    print(f"{len(chosen)} cancelled; ttt-sweep submit submits them again")


def logs(request: Request) -> None:
    """Prints the last lines of what a run's last job wrote.

    Raises:
        UserError: no such run, or it has not started.
    """
    folder = SweepFolder(request.folder)
    if not request.runs:
        raise UserError("ttt-sweep logs: name a run; ttt-sweep status lists them")
    statuses = sweep_status(folder)
    for chosen in _named(request, statuses, statuses):
        for path in log_files(folder, chosen):
            print(f"==> {path} <==\n{tail(path, int(request.number('lines', 40, 1)))}")


def collect(request: Request) -> None:
    """Copies records and metrics of the sweep's runs into a folder, with a table of them all.

    Raises:
        UserError: there is nothing to collect, or what was finished is gone.
    """
    out = Path(request.required("out"))
    # pandas takes a second, and the other commands do without it.
    from ttt.launch.collect import collect as bring_together

    statuses = sweep_status(SweepFolder(request.folder))
    table = bring_together(statuses, out)
    for status in statuses:
        if status.state != "finished":
            print(f"not finished: {status.run.run_id} ({status.state})", file=sys.stderr)
    finished = sum(status.state == "finished" for status in statuses)
    print(f"{table}: {finished} of {len(statuses)} runs are finished; draw them with ttt-plot --all runs={out}")
    deleted = [status.run.folder for status in statuses if status.state == "deleted"]
    if deleted:
        raise UserError(f"{', '.join(deleted)}: deleted after it had finished; ttt-sweep retry trains it again")


COMMANDS: dict[str, Callable[[Request], None]] = {
    "plan": plan,
    "submit": submit,
    "status": status,
    "retry": retry,
    "cancel": cancel,
    "logs": logs,
    "collect": collect,
}


def _expand(request: Request) -> Plan:
    """The plan of the sweep that was asked for, with a count where somebody watches."""
    sweep = load_sweep(request.required("sweep"), request.own.get("scale")).changed(request.overrides)
    shown = sys.stderr.isatty()

    def report(done: int, of: int) -> None:
        if shown:
            print(f"\rcomposing {done}/{of}", end="\n" if done == of else "", file=sys.stderr, flush=True)

    return expand(sweep, request.runs_dir, report)


def _submit(
    request: Request, folder: SweepFolder, asked: Asked, statuses: list[RunStatus], chosen: list[RunStatus]
) -> None:
    active = {status.run.run_id: status.job_id for status in statuses if status.state in ACTIVE}
    if chosen:
        write_asked(folder, asked)
        send(folder, asked, [status.run for status in chosen], active, print)
    finished = sum(status.state == "finished" for status in statuses)
    print(
        f"{len(chosen)} submitted, {len(active)} were queued or running, {finished} finished, of {len(statuses)} runs"
    )
    if chosen or active:
        where = [f"{key}={request.own[key]}" for key in ("sweep", "scale", "runs_dir", "folder") if key in request.own]
        print(f"watch them: ttt-sweep status {' '.join(where)} --watch")


def _hopeful(statuses: list[RunStatus]) -> list[RunStatus]:
    """Those that may be tried again; the others are named."""
    for status in statuses:
        if status.given_up:
            said = f"failed three times the same way ({status.detail or status.state})"
            print(f"left out: {status.run.run_id} {said}; ttt-sweep retry {status.run.run_id} force=true tries again")
    return [status for status in statuses if not status.given_up]


def _named(request: Request, statuses: list[RunStatus], of: list[RunStatus]) -> list[RunStatus]:
    """Those of ``of`` that the command names, all when it names none."""
    return [_one(request, name, statuses, of) for name in request.runs] if request.runs else of


def _one(request: Request, name: str, statuses: list[RunStatus], of: list[RunStatus]) -> RunStatus:
    fitting = [status for status in statuses if name in status.run.run_id]
    fitting = [status for status in fitting if status.run.run_id == name] or fitting
    if len(fitting) != 1:
        some = ", ".join(status.run.run_id for status in fitting[:3]) or "ttt-sweep status lists the runs"
        raise UserError(f"{name}: {'fits several runs' if fitting else 'no such run'}: {some}")
    if fitting[0] not in of:
        where = f" in folder={fitting[0].elsewhere}" if fitting[0].elsewhere else ""
        raise UserError(f"{fitting[0].run.run_id}: is {fitting[0].state}{where}; nothing to {request.command}")
    return fitting[0]


def _plain(status: RunStatus) -> dict[str, Any]:
    plain = asdict(status)
    run = plain.pop("run")
    named = {key: run[key] for key in ("run_id", "folder", "parent")}
    elsewhere = str(status.elsewhere) if status.elsewhere else None
    return {**named, **plain, "steps_planned": run["steps"], "elsewhere": elsewhere}


def _changed(request: Request) -> tuple[str, ...]:
    return tuple(change.partition("=")[0] for change in request.cluster)
