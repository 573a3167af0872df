"""The tables that ``ttt-sweep`` prints: one line per run."""

from collections import Counter
from collections.abc import Mapping

from ttt.config.errors import counted
from ttt.config.text_table import text_table
from ttt.launch.cost import RunCost
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus

KEYS_IN_ID = ("model", "backbone", "size", "ctx", "data", "seed")
"""Keys whose values are part of a run's id."""


def cost_table(
    costs: list[RunCost], device: str, utilisation: float, made: Mapping[str, str], memories: Mapping[str, str]
) -> str:
    """Return one line per run with its cost, and their sum.

    Args:
        costs: of the runs.
        device: the GPU of the estimate.
        utilisation: share of its peak rate.
        made: run_id -> detail of runs that are trained and have no cost.
        memories: run_id -> memory of a step; empty: no such column.
    """
    names = _row_names([cost.run for cost in costs])
    rows: list[tuple[str, ...]] = [("run", "starts from", "parameters", "tokens", "FLOPs", "GPU-hours", "disk")]
    for cost in costs:
        parameters, parent = quantity(cost.parameters), cost.run.parent or ""
        cells = _cells(cost.tokens, cost.flops, cost.gpu_hours, cost.disk)
        if cost.run.run_id in made:
            cells = (f"made, {made[cost.run.run_id]}", "", "", "")
        rows.append((names[cost.run.run_id], parent, parameters, *cells))
    left = [cost for cost in costs if cost.run.run_id not in made]
    totals = [sum(getattr(cost, key) for cost in left) for key in ("tokens", "flops", "gpu_hours", "disk")]
    rows.append(("sum", "", "", *_cells(*totals)))
    if memories:
        column = ["memory", *(memories[cost.run.run_id] for cost in costs), ""]
        rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
    note = f"GPU-hours: an estimate, FLOPs over {utilisation:.0%} of the peak rate of one {device}."
    number = counted(len(costs), "run") + (f", {len(made)} of them made and not in the sum" if made else "")
    if memories:
        note += f" memory: of a step on one {device}, counted and not measured (docs/memory.md)."
    return f"{text_table(rows, left=(0, 1, 6, 7))}\n{number}. {note}"


def status_table(statuses: list[RunStatus]) -> str:
    """Return one line per run, and the number of runs in each state."""
    names = _row_names([status.run for status in statuses])
    rows = [("run", "state", "step", "tokens/s", "left", "")]
    for status in statuses:
        # A run of this configuration may have been trained further than trainer.max_steps of the sweep.
        steps = f"{status.steps}/{max(status.run.steps, status.steps)}"
        speed = quantity(status.tokens_per_second) if status.tokens_per_second else ""
        left = duration(status.seconds_left) if status.state == "running" and status.seconds_left else ""
        elsewhere = f" (in {status.elsewhere.name})" if status.elsewhere else ""
        rows.append((names[status.run.run_id], status.state, steps, speed, left, status.detail + elsewhere))
    counts = Counter(status.state for status in statuses)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{text_table(rows, left=(0, 1, 5))}\n{counted(len(statuses), 'run')}: {summary}"


def quantity(number: float) -> str:
    """Format a number with three digits and a unit: 1234567 -> 1.23M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Format seconds: 90 -> 1m30s, 7260 -> 2h01m."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{rest:02}s"


def _cells(tokens: float, flops: float, gpu_hours: float, disk: float) -> tuple[str, str, str, str]:
    hours = f"{gpu_hours:,.0f}" if gpu_hours >= 10 else f"{gpu_hours:.2g}"
    return quantity(tokens), f"{flops:.2e}", hours, f"{quantity(disk)}B"


def _row_names(runs: list[PlannedRun]) -> dict[str, str]:
    """Return each run's id, followed by the overrides that distinguish the run but are not part of its id."""
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    names = {}
    for run in runs:
        distinct = [override for override in run.overrides if override not in shared]
        extra = [override for override in distinct if override.partition("=")[0] not in KEYS_IN_ID]
        names[run.run_id] = " ".join([run.run_id, *extra])
    return names
