"""Submitting the runs of a sweep: all at once, after their canaries, or a part of them; and retrying them."""

from collections.abc import Callable
from pathlib import Path
from time import sleep

from ttt.cli.sweep.dry import print_jobs
from ttt.cli.sweep.expand import change_cluster, load_cluster
from ttt.cli.sweep.known import compare_data, count_known, finished, known_folder, known_status, trained_for_weights
from ttt.cli.sweep.request import COMMON_KEYS, Request
from ttt.config.errors import RunError, UserError, counted
from ttt.launch.choice import Choice, choose, shapes, summary, write_held
from ttt.launch.known import remember
from ttt.launch.plan import Plan, SweepFolder, check_same_plan, freeze, submit_lock
from ttt.launch.recover import read_jobs
from ttt.launch.resources import Resources, read_resources, write_resources
from ttt.launch.status import ACTIVE, BROKEN, RunStatus, sweep_status
from ttt.launch.submit import require_commands
from ttt.launch.submit import submit as submit_runs


def submit(request: Request, expand: Callable[[Request], Plan]) -> None:
    """Submit every run that is neither finished nor queued nor running, nor held back by ``limit`` or ``canary``.

    Args:
        request: the command line.
        expand: composes the runs of a request, which takes long; called once the request itself is checked.

    Raises:
        UserError: a mistake of the user, or the cluster refuses a job.
        RunError: with ``--watch``: a canary ended without having trained a step.
    """
    limit, interval = request.whole_number("limit", 1), request.number("interval", 10, 1)
    canary, resources = request.switch("canary"), new_resources(request)
    dry = request.switch("dry")
    if not dry:
        require_commands(resources.cluster)
    sweep_plan = expand(request)
    shape_of = shapes(sweep_plan) if canary else None
    for run in sweep_plan.runs:
        resources.of(run)
    folder = SweepFolder(request.folder)
    if dry:
        return _show_jobs(request, folder, resources, sweep_plan)
    known = known_folder(request, folder)
    notes = list(compare_data(known, sweep_plan))
    folder.make()
    with submit_lock(folder):
        if not read_jobs(folder):
            # Nothing came of an earlier submission, so that its plan must not stand in the way of this one.
            folder.plan.unlink(missing_ok=True)
        freeze(sweep_plan, folder)
        statuses = known_status(request, folder)
        remember(folder, known)
        for line in (*notes, *trained_for_weights(statuses)):
            print(line)
        open_runs = [status for status in statuses if status.state not in (*ACTIVE, "finished")]
        candidates = {status.run.run_id for status in worth_retrying(open_runs)}
        choice = choose(statuses, candidates, shape_of, limit)
        write_held(folder, choice.held)
        submit_choice(request, folder, resources, statuses, choice)
    if "--watch" not in request.flags:
        return
    sent = len(choice.now)
    while _waits_for_a_canary(choice, statuses):
        sleep(interval)
        with submit_lock(folder):
            statuses = known_status(request, folder)
            choice = choose(statuses, choice.held, shape_of, None if limit is None else limit - sent)
            if choice.now:
                write_held(folder, choice.held)
                submit_choice(request, folder, resources, statuses, choice)
        sent += len(choice.now)
    _check_canaries(choice, statuses)


def retry(request: Request) -> None:
    """Submit again the runs that failed, were killed, timed out or are orphaned.

    Raises:
        UserError: nothing was submitted yet, another mistake of the user, or the cluster refuses a job.
    """
    folder, force = SweepFolder(request.folder), request.switch("force")
    if not folder.cluster.exists():
        raise UserError(
            f"{folder.path}: nothing was submitted yet; use ttt-sweep submit {_words(request)} slurm=CLUSTER"
        )
    resources = read_resources(folder)
    if "slurm" in request.options:
        resources = new_resources(request)
    elif request.cluster_changes:
        changed = tuple(sorted({*resources.changed, *_changed_keys(request)}))
        resources = Resources(change_cluster(resources.cluster, request.cluster_changes), changed)
    with submit_lock(folder):
        statuses = known_status(request, folder)
        chosen = select(request, statuses, [status for status in statuses if status.state in BROKEN])
        if not force:
            chosen = worth_retrying(chosen)
        choice = choose(statuses, {status.run.run_id for status in chosen}, None, None)
        submit_choice(request, folder, resources, statuses, choice)


def new_resources(request: Request) -> Resources:
    """Return the resources that ``slurm=`` and ``slurm.KEY=`` request.

    Raises:
        UserError: ``slurm=`` is missing or unknown, or a value is invalid.
    """
    return Resources(load_cluster(request.required("slurm"), request.cluster_changes), _changed_keys(request))


def _changed_keys(request: Request) -> tuple[str, ...]:
    return tuple(change.partition("=")[0] for change in request.cluster_changes)


def submit_choice(
    request: Request, folder: SweepFolder, resources: Resources, statuses: list[RunStatus], choice: Choice
) -> None:
    """Submit the chosen runs, and print how many were submitted, held back, active and finished before.

    Raises:
        UserError: the cluster refuses a job.
    """
    active = {status.run.run_id: status.job_id for status in statuses if status.state in ACTIVE}
    if choice.now:
        write_resources(folder, resources)
        submit_runs(folder, resources, [status.run for status in choice.now], active, print)
    numbers = f"{len(choice.now)} submitted, {len(active)} were queued or running, {finished(statuses)}"
    print(f"{numbers}, of {counted(len(statuses), 'run')}")
    if choice.held:
        print(f"{summary(choice.held)}; submit again with the same command")
    if choice.now or active:
        print(f"watch them: ttt-sweep status {_words(request)} --watch")


def _words(request: Request) -> str:
    return " ".join(f"{key}={request.options[key]}" for key in COMMON_KEYS if key in request.options)


def _show_jobs(request: Request, folder: SweepFolder, resources: Resources, sweep_plan: Plan) -> None:
    """Print what ``submit`` would send, without sending or writing anything; it needs no cluster."""
    statuses = [RunStatus(run) for run in sweep_plan.runs]
    if folder.plan.exists() and read_jobs(folder):
        check_same_plan(sweep_plan, folder)
        statuses = sweep_status(folder)
    statuses = count_known(known_folder(request, folder), statuses)
    open_ids = {status.run.run_id for status in statuses if status.state not in (*ACTIVE, "finished")}
    print_jobs(request, sweep_plan, resources, [run for run in sweep_plan.runs if run.run_id in open_ids])


def _waits_for_a_canary(choice: Choice, statuses: list[RunStatus]) -> bool:
    alive = {status.run.run_id for status in statuses if status.state in ACTIVE}
    alive |= {status.run.run_id for status in choice.now}
    return any(held.because == "canary" and held.of in alive for held in choice.held.values())


def _check_canaries(choice: Choice, statuses: list[RunStatus]) -> None:
    by_id = {status.run.run_id: status for status in statuses}
    waiting = [by_id[held.of] for held in choice.held.values() if held.because == "canary"]
    if waiting:
        first = f"canary {waiting[0].run.run_id} is {waiting[0].state} ({waiting[0].detail or 'see ttt-sweep logs'})"
        raise RunError(
            f"{first}; {counted(len(waiting), 'run')} held back by canaries; submit again with the same command"
        )


def worth_retrying(statuses: list[RunStatus]) -> list[RunStatus]:
    """Return the runs that are worth another try, and print the others."""
    for status in statuses:
        if status.given_up:
            why = f"failed three times in the same way ({status.detail or status.state})"
            print(f"left out: {status.run.run_id} {why}; ttt-sweep retry {status.run.run_id} force=true retries it")
    return [status for status in statuses if not status.given_up]


def select(request: Request, statuses: list[RunStatus], selectable: list[RunStatus]) -> list[RunStatus]:
    """Return the selectable runs that the command line names, or all of them if it names none.

    Raises:
        UserError: a name that matches no run or several, or a run that is not selectable.
    """
    if not request.run_names:
        return selectable
    return [_find(request, name, statuses, selectable) for name in request.run_names]


def _find(request: Request, name: str, statuses: list[RunStatus], selectable: list[RunStatus]) -> RunStatus:
    names = [(status.run.run_id, Path(status.run.folder).name) for status in statuses]
    matches = [status for status, own in zip(statuses, names, strict=True) if name in own]
    if not matches:
        matches = [status for status, own in zip(statuses, names, strict=True) if any(name in one for one in own)]
    if len(matches) != 1:
        examples = ", ".join(status.run.run_id for status in matches[:3]) or "ttt-sweep status lists the runs"
        raise UserError(f"{name}: {'matches several runs' if matches else 'no such run'}: {examples}")
    (status,) = matches
    if status not in selectable:
        where = f" in folder={status.elsewhere}" if status.elsewhere else ""
        raise UserError(f"{status.run.run_id}: is {status.state}{where}; nothing to {request.command}")
    return status
