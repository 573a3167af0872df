"""The tables that ``ttt-runs`` prints, within 80 columns."""

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ttt.analysis.listing import ListedRun
from ttt.cli.sweep.tables import duration, quantity
from ttt.config.text_table import shortened, text_table
from ttt.results.record import RunFolder
from ttt.results.removal import weights_of
from ttt.results.steps import steps_in_words

WIDTH = 80
SHORTEST_LABEL, LONGEST_ID = 12, 12

AGES = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"))
"""Seconds of a unit of ages, and its letter."""

HEADINGS = ("id", "label", "steps", "tok", "par", "ppl", "age", "disk", "status")
LABEL = HEADINGS.index("label")


def listing(runs: Sequence[ListedRun], wide: bool = False) -> str:
    """Return one line per run; ``wide``: with whole names and labels, otherwise in 80 columns."""
    now = datetime.now(UTC)
    rows = [HEADINGS, *(_row(run, now, wide) for run in runs)]
    if not wide:
        others = sum(max(map(len, column)) for number, column in enumerate(zip(*rows, strict=True)) if number != LABEL)
        room = max(SHORTEST_LABEL, WIDTH - others - len(HEADINGS) + 1)
        rows = [(*row[:LABEL], shortened(row[LABEL], room), *row[LABEL + 1 :]) for row in rows]
    return text_table(rows, left=(0, LABEL, len(HEADINGS) - 1), gap=" ")


def _row(run: ListedRun, now: datetime, wide: bool) -> tuple[str, ...]:
    record = run.record
    done, planned = record["steps"], record["steps_planned"]
    return (
        run.folder.name if wide else shortened(run.id, LONGEST_ID),
        run.label,
        f"{done}" if done == planned else f"{done}/{planned}",
        quantity(record["tokens"]),
        quantity(record["parameters"].get("total", 0)),
        "" if run.perplexity is None else f"{run.perplexity:.4g}",
        age_text((now - run.since).total_seconds()) if run.since else "",
        size_text(run.size),
        run.status,
    )


def age_text(seconds: float) -> str:
    """Return an age in one unit: ``5m``, ``3h``, ``12d``, ``2y``."""
    return next((f"{int(seconds / unit)}{letter}" for unit, letter in AGES if seconds >= unit), "now")


def size_text(size: float) -> str:
    """Return bytes with a unit: ``1.2MB``."""
    return f"{quantity(size)}B"


def summary(run: ListedRun) -> str:
    """Return what is known of a run, one line per fact, and the commands to go on with."""
    record = run.record
    rows = [("folder", str(run.folder)), ("label", run.label), ("status", run.status)]
    rows += [("error", record["error"])] if record["error"] else []
    rows += [(key, _text(value)) for key, value in results_of(run).items() if value is not None]
    checkpoints = len(weights_of(RunFolder(run.folder)))
    parent = record["config"].get("parent", {}).get("run_id")
    rows += [
        ("data", f"{record['data'].get('name')} {str(record['data'].get('digest', ''))[:12]}"),
        ("device", f"{record['device'].get('name')}, {record['device'].get('precision')}"),
        ("started", record["timing"].get("started") or ""),
        ("ended", record["timing"].get("ended") or ""),
        ("disk", f"{size_text(run.size)}, {checkpoints} files of checkpoints"),
        ("sweep", record["sweep"] or ""),
        ("from", parent or ""),
        ("commit", record["git"]["commit"] if record["git"] else ""),
        ("overrides", " ".join(record["overrides"])),
        *(("warning", f"{subject}: {text}") for subject, text in record.get("warnings", {}).items()),
        ("next", _next(run)),
    ]
    rows = [row for row in rows if row[1]]
    room = WIDTH - max(len(name) for name, _ in rows) - 2
    lines = [(name, _wrapped(name, text, room)) for name, text in rows]
    return text_table([(name * (part == parts[0]), part) for name, parts in lines for part in parts], left=(0, 1))


def _wrapped(name: str, text: str, room: int) -> list[str]:
    # A command stays in one piece, to be copied.
    return [text] if name == "next" else textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)


def _next(run: ListedRun) -> str:
    """Return the command that a user of the run most likely wants; empty if there is none."""
    if run.status == "finished":
        return f"ttt-generate run={run.folder}" if weights_of(RunFolder(run.folder)) else ""
    return "" if run.status in ("running", "diverged") else f"ttt-train run={run.folder}"


def results_of(run: ListedRun) -> dict[str, Any]:
    """Return the measured values of a run: name -> value; None where it has none."""
    record, timing = run.record, run.record["timing"]
    found: dict[str, Any] = {
        "steps": steps_in_words(record),
        "tokens": record["tokens"],
        "parameters": record["parameters"].get("total"),
        "training FLOPs": record["training_flops"],
    }
    for split in ("validation", "test"):
        result: Mapping[str, Any] = record["results"].get(split) or {}
        found |= {f"{split} loss": result.get("loss"), f"{split} perplexity": result.get("perplexity")}
    for name, scored in record.get("tasks", {}).items():
        if "part_of" not in scored:
            found |= {f"{name} {metric}": value for metric, value in scored["scores"].items()}
    seconds = timing.get("seconds")
    found["time"] = duration(seconds) if seconds else None
    return found | {"tokens/s": timing.get("tokens_per_second")}


def diff_table(first: ListedRun, second: ListedRun, settings: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the settings in which two runs differ and their results, side by side."""
    results = [results_of(run) for run in (first, second)]
    both = [(key, results[0][key], results[1][key]) for key in results[0]]
    names = ("", first.folder.name, second.folder.name)
    rows = [names, ("status", first.status, second.status)]
    rows += [(key, _text(mine), _text(theirs)) for key, (mine, theirs) in settings.items()]
    measured = [(key, _text(a), _text(b)) for key, a, b in both if a is not None or b is not None]
    width = max(len(row[0]) for row in [*rows, *measured])
    room = (WIDTH - width - 4) // 2
    cut = [(name, shortened(mine, room), shortened(theirs, room)) for name, mine, theirs in [*rows, *measured]]
    lines = text_table(cut, left=(0, 1, 2)).splitlines()
    # An empty line between settings and results.
    return "\n".join([*lines[: len(rows)], "", *lines[len(rows) :]])


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
