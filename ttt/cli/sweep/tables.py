"""The tables that ``ttt-sweep`` prints: one line per run."""

from collections import Counter
from collections.abc import Sequence

from ttt.launch.cost import RunCost
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus

KEYS_IN_ID = ("model", "backbone", "size", "ctx", "data", "seed")
"""Keys whose values are part of a run's id."""


def cost_table(costs: list[RunCost], device: str, utilisation: float) -> str:
    """Return one line per run with its cost, and their sum."""
    headings = ("run", "starts from", "parameters", "tokens", "FLOPs", "GPU-hours", "disk")
    names = _row_names([cost.run for cost in costs])
    rows = [
        (
            names[cost.run.run_id],
            cost.run.parent or "",
            quantity(cost.parameters),
            quantity(cost.tokens),
            f"{cost.flops:.2e}",
            hours(cost.gpu_hours),
            f"{quantity(cost.disk)}B",
        )
        for cost in costs
    ]
    flops, spent = sum(cost.flops for cost in costs), sum(cost.gpu_hours for cost in costs)
    tokens, disk = sum(cost.tokens for cost in costs), sum(cost.disk for cost in costs)
    rows.append(("sum", "", "", quantity(tokens), f"{flops:.2e}", hours(spent), f"{quantity(disk)}B"))
    note = f"{len(costs)} runs. GPU-hours: an estimate, FLOPs over {utilisation:.0%} of the peak rate of one {device}."
    return f"{_table(headings, rows, left=2)}\n{note}"


def status_table(statuses: list[RunStatus]) -> str:
    """Return one line per run, and the number of runs in each state."""
    headings = ("run", "state", "step", "tokens/s", "left", "")
    names = _row_names([status.run for status in statuses])
    rows = [
        (
            names[status.run.run_id],
            status.state,
            f"{status.steps}/{status.run.steps}",
            quantity(status.tokens_per_second) if status.tokens_per_second else "",
            duration(status.seconds_left) if status.state == "running" and status.seconds_left else "",
            status.detail + (f" (in {status.elsewhere.name})" if status.elsewhere else ""),
        )
        for status in statuses
    ]
    counts = Counter(status.state for status in statuses)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{_table(headings, rows, left=2)}\n{len(statuses)} runs: {summary}"


def quantity(number: float) -> str:
    """Format a number with three digits and a unit: 1234567 -> 1.23M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def hours(number: float) -> str:
    """Format hours: no decimals from 10 on, two significant digits below."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """Format seconds: 90 -> 1m30s, 7260 -> 2h01m."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{rest:02}s"


def _row_names(runs: list[PlannedRun]) -> dict[str, str]:
    """Return each run's id, followed by those overrides that distinguish the run and are not part of its id."""
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    names = {}
    for run in runs:
        apart = [override for override in run.overrides if override not in shared]
        names[run.run_id] = " ".join(
            [run.run_id, *(text for text in apart if text.partition("=")[0] not in KEYS_IN_ID)]
        )
    return names


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Format aligned columns; the first ``left`` columns and the last are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    last = len(headings) - 1
    lines = [
        "  ".join(
            cell.ljust(width) if number < left or number == last else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headings, *rows)
    ]
    return "\n".join(lines)
