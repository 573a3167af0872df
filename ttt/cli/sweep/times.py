"""How long the runs of a sweep take: on a GPU by its peak rate, on this machine by earlier runs or a measurement."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ttt.analysis.speeds import readable_records
from ttt.cli.cost import Speed, speed_here
from ttt.cli.sweep.tables import Times
from ttt.config.errors import counted
from ttt.config.schema import TrainConfig
from ttt.launch.cost import RunCost
from ttt.launch.plan import Plan

HERE, DEFAULT_GPU = "here", "h100"
"""Values of ``device=``: this machine, and the GPU of the estimate for large sweeps."""

SMALL_HOURS = 1.0
"""GPU-hours of a sweep up to which it is estimated for this machine unless ``device=`` says otherwise."""


def times_of(
    plan: Plan, costs: list[RunCost], device: str | None, utilisation: float, runs: Path, made: Collection[str]
) -> Times:
    """Return the times of the runs.

    Args:
        plan: the runs.
        costs: their costs, with GPU-hours.
        device: ``device=``; None: this machine for a small sweep, otherwise ``DEFAULT_GPU``.
        utilisation: fraction of the GPU's peak rate.
        runs: folder of earlier runs.
        made: runs that take no time.

    Raises:
        UserError: this machine lacks the device of the sweep.
    """
    small = sum(cost.gpu_hours for cost in costs) < SMALL_HOURS
    if device != HERE and not (device is None and small):
        note = f"GPU-h: FLOPs over {utilisation:.0%} of the peak rate of one {device or DEFAULT_GPU}."
        return Times({cost.run.run_id: cost.gpu_hours for cost in costs}, "GPU-h", note)
    records, speeds = readable_records(runs), dict[str, Speed | None]()
    hours = dict[str, float | None]()
    for cost in costs:
        if cost.run.run_id in made:
            hours[cost.run.run_id] = 0.0
            continue
        config = replace(plan.configs[cost.run.run_id], runs=str(runs))
        shape = shape_of(config, cost)
        if shape not in speeds:
            speeds[shape] = speed_here(config, records, cost.flops / cost.tokens)
        speed = speeds[shape]
        hours[cost.run.run_id] = None if speed is None else cost.tokens / speed.tokens_per_second / 3600
    return Times(hours, "time", _note(speeds), here=True)


def shape_of(config: TrainConfig, cost: RunCost) -> str:
    """Return the same text for runs whose tokens take the same time: runs that differ in rates and seeds alone."""
    names = config.model.name, config.backbone.name, config.ctx.length
    return repr((*names, cost.parameters, f"{cost.flops / cost.tokens:.6g}"))


def _note(speeds: dict[str, Speed | None]) -> str:
    known = [speed for speed in speeds.values() if speed is not None]
    earlier = sum(speed.source.startswith("as") for speed in known)
    note = f"Times on this machine, one run at a time: of {counted(len(speeds), 'shape')} {earlier} as in earlier runs"
    note += f", {len(known) - earlier} measured now"
    return note + (f", {len(speeds) - len(known)} too large to measure." if len(known) < len(speeds) else ".")
