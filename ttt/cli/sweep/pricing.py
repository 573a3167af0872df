"""The runs of the parts of a budget, and what they cost on this device."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ttt.analysis.speeds import earlier_speed, readable_records
from ttt.cli.cost import measured_here
from ttt.cli.sweep.expand import expand, load_sweep
from ttt.cli.sweep.overrides import with_overrides
from ttt.cli.sweep.times import shape_of
from ttt.config.budget import SHORTEST_PROBED, Part
from ttt.config.errors import UserError, bad_value
from ttt.config.identity import context_name
from ttt.config.schema import TrainConfig
from ttt.launch.budget import Price
from ttt.launch.cost import RunCost, run_costs
from ttt.launch.plan import Plan, PlannedRun
from ttt.launch.status import is_finished, read_record_of
from ttt.results.record import RunFolder

SCALE = "gpu"
"""The scale of the sweeps of a budget."""

STARTS_IN = 5.0
"""Seconds to open the data, build the model and write the record of a run; all runs share one process."""

FORWARD = 1 / 3
"""Time of a token in an evaluation relative to training."""

GPU = "h100"
"""For ``run_costs``, whose GPU-hours are not used here."""


@dataclass(frozen=True)
class PlannedPart:
    """The runs of a part.

    Attributes:
        part: the part.
        plan: its runs; None for a benchmark.
        costs: of its runs.
        todo: ids of the runs that are not finished -> share of their steps that is left.
        to_probe: ids of the runs to probe.
    """

    part: Part
    plan: Plan | None
    costs: tuple[RunCost, ...]
    todo: Mapping[str, float]
    to_probe: frozenset[str]


def plan_parts(parts: tuple[Part, ...], overrides: list[str], runs_folder: Path) -> list[PlannedPart]:
    """Return the runs of every part at their whole number of tokens.

    Raises:
        UserError: an override that does not compose, or a sweep that a budget cannot run.
    """
    return [_planned(part, overrides, runs_folder) for part in parts]


def at_share(planned: list[PlannedPart], share: float, overrides: list[str], runs_folder: Path) -> list[PlannedPart]:
    """Return the parts with runs of a share of the tokens: fewer ``recipe.steps``, and a schedule that ends with them.

    Args:
        planned: the parts at their whole number of tokens.
        share: above 0 and below 1.
        overrides: for all runs.
        runs_folder: folder of all run folders.

    Raises:
        UserError: the runs of a part have different numbers of steps.
    """
    found = []
    for one in planned:
        if one.plan is None:
            found.append(one)
            continue
        steps = {config.recipe.steps for config in one.plan.configs.values()}
        if len(steps) > 1:
            differ = ", ".join(map(str, sorted(steps)))
            raise UserError(f"sweep={one.part.sweep}: share={share:g} needs runs of equally many steps, here {differ}")
        shorter = f"recipe.steps={max(1, round(share * steps.pop()))}"
        found.append(_planned(one.part, [*overrides, shorter], runs_folder))
    return found


def _planned(part: Part, overrides: list[str], runs_folder: Path) -> PlannedPart:
    if part.sweep is None:
        return PlannedPart(part, None, (), {}, frozenset())
    sweep = with_overrides(load_sweep(part.sweep, SCALE), [*part.words, *overrides])
    plan = expand(sweep, runs_folder, labels=False)
    if any(run.parent for run in plan.runs):
        raise UserError(f"sweep={part.sweep}: a budget has no runs that start from others; leave out recipe=finetune")
    shortest = min(config.ctx.length for config in plan.configs.values())
    if part.longest and shortest < SHORTEST_PROBED:
        needs = f"a part that is probed (longest={part.longest}) needs at least {SHORTEST_PROBED} tokens"
        raise bad_value("ctx", context_name(shortest), f"{needs}; give ctx={SHORTEST_PROBED}")
    return still_to_do(PlannedPart(part, plan, tuple(run_costs(plan, GPU, 1.0)), {}, frozenset()))


def still_to_do(planned: PlannedPart) -> PlannedPart:
    """Return a part with the runs that are to do and to probe by now, by their records."""
    runs = planned.plan.runs if planned.plan is not None else []
    left = {run.run_id: _left_of(run) for run in runs}
    todo = {run_id: share for run_id, share in left.items() if share > 0}
    longest = planned.part.longest
    probed = (run for run in runs if longest and not RunFolder(Path(run.folder)).context_gain.exists())
    return replace(planned, todo=todo, to_probe=frozenset(run.run_id for run in probed))


def after(planned: PlannedPart, before: Collection[PlannedPart]) -> PlannedPart:
    """Return what is left of a part after other ones: parts may share runs, which are made and probed once."""
    made = {run_id for other in before for run_id in other.todo}
    return without(planned, made, {run_id for other in before for run_id in other.to_probe})


def without(planned: PlannedPart, made: Collection[str], probed: Collection[str]) -> PlannedPart:
    """Return a part without the training of some runs and the probes of some."""
    todo = {run_id: share for run_id, share in planned.todo.items() if run_id not in made}
    return replace(planned, todo=todo, to_probe=planned.to_probe.difference(probed))


def _left_of(run: PlannedRun) -> float:
    """Return the share of a run's steps that is left by its record: 0 if it is finished."""
    record = read_record_of(Path(run.folder))
    if is_finished(run, record):
        return 0.0
    # A run that was cut off in its evaluation has done all its steps.
    return max(1 / run.steps, 1 - record["steps"] / run.steps) if isinstance(record, dict) else 1.0


class Speeds:
    """Tokens per second of training by shape of run, on this device: of earlier runs, measured before, or measured now.

    Args:
        device: name of the device, as in records.
        runs_folder: folder of earlier runs.
        measured: shape -> measured tokens per second; what is measured now is added.
        seconds: time for one measurement.
        report: called before the first measurement.
        keep: called after each measurement.
    """

    def __init__(
        self,
        device: str,
        runs_folder: Path,
        measured: dict[str, float],
        seconds: float,
        report: Callable[[], None],
        keep: Callable[[], None],
    ) -> None:
        self._keep = keep
        self._device, self._measured, self._seconds, self._report = device, measured, seconds, report
        self._records = readable_records(runs_folder)

    def __call__(self, config: TrainConfig, cost: RunCost) -> float | None:
        """Return the tokens per second of a run; None: a single sequence would take minutes here.

        Raises:
            UserError: the run fits into the device's memory under no setting.
        """
        if earlier := earlier_speed(config, self._records, self._device):
            return earlier.tokens_per_second
        shape = shape_of(config, cost)
        if shape not in self._measured:
            self._report()
            self._report = lambda: None
            found = measured_here(config, cost.flops / cost.tokens, self._seconds)
            self._measured[shape] = found or 0.0
            self._keep()
        return self._measured[shape] or None


def price_of(planned: PlannedPart, speeds: Speeds, share: float, done: bool) -> Price | None:
    """Return what is to do of a part, its training at the whole number of tokens; None: too large for this device.

    Args:
        planned: the part, planned at ``share``.
        speeds: of this device.
        share: share of the tokens at which it was planned.
        done: a benchmark is done.
    """
    if planned.plan is None:
        return Price(0.0, 0.0 if done else 60 * planned.part.minutes)
    training = fixed = 0.0
    for cost in planned.costs:
        config, run_id = planned.plan.configs[cost.run.run_id], cost.run.run_id
        if run_id not in planned.todo and run_id not in planned.to_probe:
            continue
        speed = speeds(config, cost)
        if speed is None:
            return None
        if run_id in planned.todo:
            training += planned.todo[run_id] * cost.tokens / speed / share
            # Validation and test.
            fixed += STARTS_IN + 2 * config.data.eval_tokens * FORWARD / speed
        if run_id in planned.to_probe and planned.part.longest:
            fixed += probed_tokens(min(planned.part.longest, config.ctx.length)) * FORWARD / speed
    return Price(training, fixed)


def probed_tokens(widest: int) -> int:
    """Return the most tokens that ``probe=context_gain`` reads in windows of up to ``widest`` tokens."""
    # Importing torch takes seconds.
    from ttt.evaluate.context_gain import NEAR, WINDOWS

    return WINDOWS * sum(width * (1 if width == NEAR else 3) for width in _widths(NEAR, widest))


def _widths(width: int, widest: int) -> Iterator[int]:
    while width <= widest:
        yield width
        width *= 2
