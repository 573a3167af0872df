"""The tables that ``ttt-sweep`` prints: one line per run."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ttt.analysis.labels import method_label
from ttt.config.errors import counted
from ttt.config.text_table import WIDTH, fitted_table, text_table, wrapped
from ttt.launch.cost import RunCost
from ttt.launch.plan import Plan, PlannedRun
from ttt.launch.status import RunStatus

KEYS_IN_ID = ("model", "backbone", "size", "ctx", "data", "seed")
"""Keys whose values are part of a run's id."""

OF_THE_METHOD = ("model", "backbone")
"""Keys that the name of a method says."""


class Times(NamedTuple):
    """How long the runs of a sweep take.

    Attributes:
        hours: run_id -> hours; None: not known.
        unit: heading of the column.
        note: how they were estimated.
        here: whether they are times on this machine, and not GPU-hours.
    """

    hours: dict[str, float | None]
    unit: str
    note: str
    here: bool = False


def cost_table(plan: Plan, costs: list[RunCost], times: Times, made: Mapping[str, str], wide: bool = False) -> str:
    """Return one line per run with its method, the values of the sweep's axes and its cost, and the sum.

    Args:
        plan: the runs.
        costs: their costs.
        times: their times.
        made: run_id -> detail of the runs that are made, which cost nothing.
        wide: whole names, in lines of any length.
    """
    axes = axis_values([cost.run for cost in costs])
    parents = any(cost.run.parent for cost in costs)
    rows = [("run", "method", *axes, *(["from"] if parents else []), "par", "tokens", "FLOPs", times.unit, "disk")]
    for cost in costs:
        run, config = cost.run, plan.configs[cost.run.run_id]
        names = [run.run_id if wide else hash_of(run.run_id), method_label(config.model.name, config.backbone.name)]
        names += [values[run.run_id] for values in axes.values()]
        if parents:
            names.append((run.parent or "") if wide else hash_of(run.parent or ""))
        cells = _cells(cost.tokens, cost.flops, times.hours[run.run_id], cost.disk, times)
        if run.run_id in made:
            cells = ("made", "", "", "")
        rows.append((*names, quantity(cost.parameters), *cells))
    left = [cost for cost in costs if cost.run.run_id not in made]
    hours = [times.hours[cost.run.run_id] for cost in left]
    known = [hour for hour in hours if hour is not None]
    sums = [sum(getattr(cost, key) for cost in left) for key in ("tokens", "flops", "disk")]
    rows.append(("sum", *[""] * (len(rows[0]) - 5), *_cells(sums[0], sums[1], sum(known), sums[2], times)))
    columns = range(2 + len(axes) + parents)
    table = text_table(rows, left=columns) if wide else fitted_table(rows, left=columns)
    number = counted(len(costs), "run") + (f", {len(made)} of them made and not in the sum" if made else "")
    return f"{table}\n{textwrap.fill(f'{number}. {times.note}', WIDTH)}"


def memory_table(memories: Mapping[str, str], device: str) -> str:
    """Return the memory of a step, one line for all runs that need the same, with the hashes of their ids."""
    runs: dict[str, list[str]] = {}
    for run_id, memory in memories.items():
        runs.setdefault(memory, []).append(hash_of(run_id))
    lines = [textwrap.fill(f"{memory}: {' '.join(hashes)}", WIDTH) for memory, hashes in runs.items()]
    return "\n".join([f"Memory of a step on one {device}, counted and not measured (docs/memory.md):", *lines])


def hash_of(run_id: str) -> str:
    """Return the hash at the end of a run id, by which commands find the run."""
    return run_id.rpartition("-")[2]


def axis_values(runs: list[PlannedRun], without: Sequence[str] = OF_THE_METHOD) -> dict[str, dict[str, str]]:
    """Return short key -> run_id -> value, for every key that not all runs set to one value; ``without``: but these."""
    pairs = {run.run_id: dict(_pair(override) for override in run.overrides) for run in runs}
    keys = dict.fromkeys(key for of_run in pairs.values() for key in of_run if key not in without)
    varied = [key for key in keys if len({of_run.get(key) for of_run in pairs.values()}) > 1]
    last = Counter(key.rpartition(".")[2] for key in varied)
    names = {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in varied}
    return {names[key]: {run_id: of_run.get(key, "") for run_id, of_run in pairs.items()} for key in varied}


def _pair(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def status_table(statuses: list[RunStatus], wide: bool = False) -> str:
    """Return one line per run, and the number of runs in each state.

    Args:
        statuses: of the runs.
        wide: whole names, in lines of any length. Otherwise a line has 80 characters, and where the names do not fit,
            the hash of each run's id and the overrides in which the runs differ stand in their place.
    """
    runs = [status.run for status in statuses]
    names = _row_names(runs)
    rows: list[tuple[str, ...]] = [("run", "state", "step", "tokens/s", "left", "")]
    for status in statuses:
        # A run of this configuration may have been trained further than trainer.max_steps of the sweep.
        steps = f"{status.steps}/{max(status.run.steps, status.steps)}"
        speed = quantity(status.tokens_per_second) if status.tokens_per_second else ""
        left = duration(status.seconds_left) if status.state == "running" and status.seconds_left else ""
        elsewhere = f" (in {status.elsewhere.name})" if status.elsewhere else ""
        rows.append((names[status.run.run_id], status.state, steps, speed, left, status.detail + elsewhere))
    counts = Counter(status.state for status in statuses)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    if not wide and _too_wide(rows):
        rows = _with_short_names(rows, runs)
    table = text_table(rows, left=(0, 1, 5)) if wide else _with_details(rows)
    return f"{table}\n{counted(len(statuses), 'run')}: {summary}"


def _too_wide(rows: Sequence[tuple[str, ...]]) -> bool:
    return max(map(len, text_table([row[:-1] for row in rows], left=(0, 1)).splitlines())) > WIDTH


def _with_short_names(rows: Sequence[tuple[str, ...]], runs: list[PlannedRun]) -> list[tuple[str, ...]]:
    """Return the rows with the hash of each run and the keys in which the runs differ, in the detail if need be."""
    if len(runs) == 1:
        return list(rows)
    hashes, differing = [hash_of(run.run_id) for run in runs], _differing(runs)
    named = [(f"{name} {keys}".rstrip(), *row[1:]) for name, keys, row in zip(hashes, differing, rows[1:], strict=True)]
    if _too_wide(short := [rows[0], *named]):
        details = ("; ".join(filter(None, (keys, row[-1]))) for keys, row in zip(differing, rows[1:], strict=True))
        named = [(name, *row[1:-1], text) for name, row, text in zip(hashes, rows[1:], details, strict=True)]
        return [rows[0], *named]
    return short


def _differing(runs: list[PlannedRun]) -> list[str]:
    """Return the overrides of each run whose keys do not have one value in all runs, with the last parts of keys."""
    values = axis_values(runs, without=())
    return [
        " ".join(f"{key}={of_run[run.run_id]}" for key, of_run in values.items() if of_run[run.run_id]) for run in runs
    ]


def _with_details(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the table in 80 columns; a detail, in the last cell, that does not fit stands in lines of its own."""
    lines = []
    for line, row in zip(
        fitted_table([row[:-1] for row in rows], left=(0, 1), gap="  ").splitlines(), rows, strict=True
    ):
        if not row[-1] or len(line) + 2 + len(row[-1]) <= WIDTH:
            lines.append(f"{line}  {row[-1]}".rstrip())
        else:
            lines += [line, wrapped(row[-1], "  ", "  ")]
    return "\n".join(lines)


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


def _cells(tokens: float, flops: float, hours: float | None, disk: float, times: Times) -> tuple[str, str, str, str]:
    time = "?" if hours is None else duration(hours * 3600) if times.here else f"{hours:.2g}"
    if hours is not None and not times.here and hours >= 10:
        time = f"{hours:,.0f}"
    return quantity(tokens), f"{flops:.1e}", time, f"{quantity(disk)}B"


def _row_names(runs: list[PlannedRun]) -> dict[str, str]:
    """Return each run's id, followed by the overrides that distinguish the run but are not part of its id."""
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    names = {}
    for run in runs:
        distinct = [override for override in run.overrides if override not in shared]
        extra = [override for override in distinct if override.partition("=")[0] not in KEYS_IN_ID]
        names[run.run_id] = " ".join([run.run_id, *extra])
    return names
