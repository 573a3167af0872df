"""The plan of a budget: its runs, measured on this device, and the choice of those that fit into its time."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttt.cli.sweep.epochs import repeated_reading
from ttt.cli.sweep.pricing import PlannedPart, Speeds, after, at_share, price_of
from ttt.cli.sweep.tables import duration, quantity
from ttt.config.budget import Budget
from ttt.config.errors import bad_value, counted
from ttt.config.schema import TrainConfig
from ttt.config.text_table import fitted_table, wrapped
from ttt.launch.budget import BudgetState, Choice, Price, PriceAfter, choose_parts

CALIBRATION = 1 / 60
"""Share of the time that measuring speeds may take, at most ``MOST_CALIBRATION`` seconds."""

MOST_CALIBRATION = 60.0
MOST_OF_A_SHAPE = 5.0
"""Seconds for one shape of run."""

STATE_FILE = "budget.json"


@dataclass
class Budgeted:
    """A budget while it runs.

    Attributes:
        budget: the file.
        seconds: its time.
        time: the same as the user wrote it.
        overrides: for all runs.
        bench_overrides: for all benchmarks.
        runs_folder: folder of all run folders.
        folder: folder of the state.
        state: what later calls go on from.
        device: name of the device, as in records.
        spent_before: seconds of earlier calls.
        started: of this call, by the monotonic clock.
        dry: nothing is written.
    """

    budget: Budget
    seconds: float
    time: str
    overrides: list[str]
    bench_overrides: list[str]
    runs_folder: Path
    folder: Path
    state: BudgetState
    device: str
    spent_before: float
    started: float
    dry: bool

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - self.spent_before - (time.monotonic() - self.started)

    def save(self) -> None:
        """Write the state, with the time spent so far; nothing in a dry call."""
        if self.dry:
            return
        self.state.spent = self.spent_before + time.monotonic() - self.started
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state.write(self.folder / STATE_FILE)


def configs_of(planned: list[PlannedPart]) -> list[TrainConfig]:
    """Return the configurations of all runs."""
    return [config for part in planned if part.plan for config in part.plan.configs.values()]


def choose(here: Budgeted, planned: list[PlannedPart]) -> tuple[list[PlannedPart], Choice]:
    """Measure, and choose a share of the tokens and the parts that fit into the time that is left.

    Raises:
        UserError: no part fits.
    """
    speeds, first = speeds_of(here, planned), len(here.budget.first)
    share = here.state.share
    if share is None:
        at_all = _pricing(here, planned, speeds, 1)
        share = choose_parts(at_all, len(planned), first, here.budget.shares, here.left()).share
        free_memory()
    if share < 1:
        planned = at_share(planned, share, here.overrides, here.runs_folder)
    choice = choose_parts(_pricing(here, planned, speeds, share), len(planned), first, (share,), here.left())
    does_nothing = not any(part.seconds(share) for index in choice.parts if (part := choice.prices[index]))
    if does_nothing and any(price is None or price.seconds(share) for price in choice.prices):
        _refuse(here, planned, choice)
    return planned, choice


def speeds_of(here: Budgeted, planned: list[PlannedPart]) -> Speeds:
    """Return the speeds of runs on the budget's device; what is measured is kept in its state."""
    configs = configs_of(planned)
    shapes = {(config.ctx.length, repr((config.model, config.size, config.backbone))) for config in configs}
    seconds = min(MOST_CALIBRATION, CALIBRATION * here.seconds) / max(1, len(shapes))

    def report() -> None:
        print(f"measuring the speed of {counted(len(shapes), 'shape')} of run on {here.device}", file=sys.stderr)

    measured = here.state.speeds.setdefault(here.device, {})
    return Speeds(here.device, here.runs_folder, measured, min(MOST_OF_A_SHAPE, seconds), report, here.save)


def _pricing(here: Budgeted, planned: list[PlannedPart], speeds: Speeds, share: float) -> PriceAfter:
    def price(index: int, before: Sequence[int]) -> Price | None:
        part = after(planned[index], [planned[other] for other in before])
        return price_of(part, speeds, share, index in here.state.benchmarks)

    return price


def _refuse(here: Budgeted, planned: list[PlannedPart], choice: Choice) -> None:
    """Refuse a time into which no part fits.

    Raises:
        UserError: always; it names the least time.
    """
    seconds_of = (price.seconds(choice.share) if price else 0.0 for price in choice.prices)
    prices_of = zip(seconds_of, planned, strict=True)
    possible = [pair for pair in prices_of if pair[0] > 0]
    if not possible:
        raise bad_value("budget", here.budget.name, f"its runs are too large for {here.device}; give size= or ctx=")
    seconds, part = min(possible, key=lambda pair: pair[0])
    spent = here.seconds - here.left()
    since = f" after the {duration(spent)} that are spent" if spent >= 1 else ""
    needs = f"the shortest part ({part.part.what}) takes {duration(seconds)}{since}"
    raise bad_value("time", here.time, f"{needs}; time={_at_least(seconds + spent)} is enough")


def _at_least(seconds: float) -> str:
    """Return a time as ``time=`` takes it, a tenth longer."""
    seconds *= 1.1
    return f"{int(seconds) + 1}s" if seconds < 120 else f"{int(seconds / 60) + 1}m"


def print_plan(here: Budgeted, planned: list[PlannedPart], choice: Choice) -> None:
    """Print one line per part: its runs, tokens and time, or why it is left out; then how often texts are repeated."""
    spent = f", {duration(here.spent_before)} of it spent" if here.spent_before else ""
    share = "" if choice.share == 1 else f", {choice.share:g} of the tokens of each run"
    print(wrapped(f"{here.budget.name}: {duration(here.seconds)} on {here.device}{spent}{share}", below="  "))
    rows = [("part", "to make", "tokens", "time", "")]
    for index, price in enumerate(choice.prices):
        part = after(planned[index], [planned[other] for other in choice.parts if other < index])
        tokens = sum(cost.tokens for cost in part.costs if cost.run.run_id in part.todo)
        number = str(len(part.todo)) if part.plan else ""
        seconds = duration(price.seconds(choice.share)) if price else "?"
        why = "" if index in choice.parts else "too large here" if price is None else "left out"
        why = "made" if price is not None and price.seconds(choice.share) == 0 else why
        rows.append((part.part.what, number, quantity(tokens) if tokens else "", seconds, why))
    rows.append(("sum", "", "", duration(choice.seconds), ""))
    print(fitted_table(rows, left=(0, 4)))
    chosen = [planned[index].plan for index in choice.parts]
    for line in dict.fromkeys(line for plan in chosen if plan for line in repeated_reading(plan)):
        print(wrapped(line))
    sys.stdout.flush()


def free_memory() -> None:
    """Return the memory of the last model to the device."""
    # Importing torch takes seconds, and other commands of a sweep do not need it.
    from ttt.models.memory import return_memory

    return_memory()
