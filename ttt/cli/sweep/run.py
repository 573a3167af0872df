"""``ttt-sweep run``: the most informative runs that fit into a limited time, in this process, one after another."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from ttt.cli.bench import COMMANDS as BENCHMARKS
from ttt.cli.compose import as_object, compose
from ttt.cli.eval import evaluate
from ttt.cli.label import hydra_ready, label_of
from ttt.cli.sweep.budgeted import STATE_FILE, Budgeted, choose, configs_of, free_memory, print_plan, speeds_of
from ttt.cli.sweep.files import budget_file, read_yaml
from ttt.cli.sweep.pricing import PlannedPart, plan_parts, price_of, still_to_do, without
from ttt.cli.sweep.request import Request
from ttt.cli.sweep.tables import duration
from ttt.config.budget import read_budget, seconds_of
from ttt.config.errors import InterruptedRunError, RunError, UserError, bad_value, counted
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.data.local import check_paths
from ttt.launch.budget import Choice, read_state
from ttt.launch.status import is_finished, read_record_of
from ttt.results.run_record import Label
from ttt.train.start import train

BENCH = "bench."
"""Prefix of overrides for the benchmarks of a budget; others are for its runs."""


def run(request: Request) -> None:
    """Print what fits into the time of ``budget=``, measured on this device, and run it unless ``dry=true``.

    Raises:
        UserError: a mistake on the command line, no such device, a run that does not fit into its memory, or too little
            time for any part.
        RunError: some runs failed, after the others have been made.
    """
    started = time.monotonic()
    here, planned = _opened(request, started)
    with _alone(here.folder, here.dry):
        planned, choice = choose(here, planned)
        print_plan(here, planned, choice)
        if here.dry:
            print("nothing was trained or written; without dry=true it starts")
        else:
            _run_parts(here, planned, choice)


def _opened(request: Request, started: float) -> tuple[Budgeted, list[PlannedPart]]:
    """Return the budget of a command line, as far as earlier calls have come, and its parts.

    Raises:
        UserError: as ``run``, or the folder belongs to a budget with other words.
    """
    file = budget_file(request.required("budget"))
    budget, share = read_budget(file.name, read_yaml(file.path)), _share(request)
    limit = request.options.get("time", f"{budget.seconds / 60:g}m")
    seconds = seconds_of("time", limit)
    chosen = request.options.get("folder")
    folder = Path(chosen).absolute() if chosen else request.runs_folder / "sweeps" / f"budget_{budget.name}"
    state = read_state(folder / STATE_FILE, [*request.overrides, *([f"share={share:g}"] if share else [])])
    state.share = state.share or share
    overrides = [word for word in request.overrides if not word.startswith(BENCH)]
    of_benchmarks = [word.removeprefix(BENCH) for word in request.overrides if word.startswith(BENCH)]
    planned = plan_parts((*budget.first, *budget.then), overrides, request.runs_folder)
    device, runs = _device(configs_of(planned)), request.runs_folder
    spent, dry = state.spent, request.switch("dry")
    here = Budgeted(budget, seconds, limit, overrides, of_benchmarks, runs, folder, state, device, spent, started, dry)
    return here, planned


def _share(request: Request) -> float | None:
    share = request.number("share", 0, 0) if "share" in request.options else None
    if share is not None and not 0 < share <= 1:
        raise bad_value("share", request.options["share"], "must be above 0 and at most 1")
    return share


def _device(configs: list[TrainConfig]) -> str:
    """Return the name of the device of all runs, and check that their texts exist.

    Raises:
        UserError: the device is not here, or the runs have several.
    """
    names = sorted({config.trainer.device for config in configs})
    if len(names) != 1:
        raise bad_value("trainer.device", ",".join(names), "a budget is for one device")
    for data in {repr(config.data): config.data for config in configs}.values():
        check_paths(data)
    # Importing torch takes seconds; mistakes above are reported before it.
    from ttt.models.device import choose_device, device_name

    return device_name(choose_device(names[0], "trainer.device"))


@contextmanager
def _alone(folder: Path, dry: bool) -> Iterator[None]:
    """Let only one process run a budget.

    Raises:
        UserError: another process does.
    """
    if dry:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".budget.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process runs this budget; wait for it, or give folder=FOLDER") from error


def _run_parts(here: Budgeted, planned: list[PlannedPart], choice: Choice) -> None:
    """Run the chosen parts in their order; before each, the speed of the runs so far decides again whether it fits.

    Raises:
        RunError: some runs failed.
    """
    here.state.share = choice.share
    here.save()
    failed, made = list[str](), 0
    for index in choice.parts:
        # A run that failed is not tried again in a later part that shares it.
        part = without(still_to_do(planned[index]), failed, failed)
        price = price_of(part, speeds_of(here, planned), choice.share, index in here.state.benchmarks)
        needed = float("inf") if price is None else price.seconds(choice.share)
        if needed > here.left():
            print(f"left out: {part.part.what} takes {duration(needed)}, {duration(max(0.0, here.left()))} are left")
        elif part.plan is not None:
            failed += _run_part(here, part)
            made += len(part.todo.keys() - still_to_do(part).todo.keys())
        elif index not in here.state.benchmarks:
            _benchmark(here, part)
            here.state.benchmarks.append(index)
            here.save()
    print(f"{counted(made, 'run')} made in {here.runs_folder}, {duration(here.state.spent)} spent")
    if failed:
        raise RunError(f"{counted(len(failed), 'run')} failed: {', '.join(failed)}; the same command tries again")


def _run_part(here: Budgeted, planned: PlannedPart) -> list[str]:
    """Train the runs of a part that are to do, and probe them; return the ids of those that failed."""
    assert planned.plan is not None
    failed = []
    for run in planned.plan.runs:
        if here.left() < 0:
            print(f"left out: the rest of {planned.part.what}; the time is over")
            break
        config = planned.plan.configs[run.run_id]
        try:
            if run.run_id in planned.todo:
                train(config, list(run.overrides), planned.plan.sweep, partial(_label, config))
            # A run that an earlier part left out has no weights.
            if run.run_id in planned.to_probe and is_finished(run, read_record_of(Path(run.folder))):
                longest, device = planned.part.longest, config.trainer.device
                evaluate(EvalConfig(run=run.folder, probe="context_gain", longest=longest, device=device), [])
        except InterruptedRunError:
            raise
        except RunError as error:
            print(f"failed: {error}", file=sys.stderr)
            failed.append(run.run_id)
        finally:
            # Written after every run, also after one that was interrupted.
            here.save()
            free_memory()
    return failed


def _label(config: TrainConfig) -> Label:
    return label_of(config).to_plain()


def _benchmark(here: Budgeted, planned: PlannedPart) -> None:
    """Run a benchmark of ``ttt-bench`` on the device of the runs."""
    command = BENCHMARKS[str(planned.part.bench)]
    device = here.device.partition(":")[0]
    words = [*planned.part.words, f"device={device}", f"runs={here.runs_folder}", *here.bench_overrides]
    with hydra_ready():
        overrides, _ = command.for_hydra(words)
        command.run(as_object(compose(command.config_name, overrides), command.schema), overrides)
