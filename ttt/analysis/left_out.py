"""The runs that a figure of the paper does not draw: how many, why, and where they are drawn."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole, is_stopped, methods
from ttt.config.errors import counted
from ttt.config.label import TRIED

if TYPE_CHECKING:
    from pandas import DataFrame

    from ttt.analysis.store import Results

NO_PLACE = "of other data, sizes, contexts, methods or measurements than it draws"

DEPARTING = "with other settings than the standard"

IN_SHORT: dict[str, str] = {
    RunRole.OTHER_SETTING: "worse setting",
    RunRole.STOPPED: "stopped early",
    RunRole.UNEVALUATED: "not finished",
    RunRole.OTHER_LENGTH: "other length",
    RunRole.NO_PARENT: "parent missing",
    RunRole.OTHER_SEED: "seeds that others lack",
    RunRole.OTHER_TEXT: "another text",
    NO_PLACE: "other data, size or method",
    DEPARTING: "other settings",
}
"""Reason -> the words for a caption."""

MOST_KEYS = 3
"""Number of settings that a sentence names."""


def left_out(results: Results, table: DataFrame) -> str:
    """Return a sentence about the runs that a figure does not draw, or an empty text.

    Args:
        results: all runs.
        table: the figure's table: the runs in it are drawn, unless it has a column ``role`` that says otherwise.
    """
    reasons, keys = _counted(results, table)
    parts = [f"{counted(number, 'run')} {_in_words(reason, keys)}" for reason, number in sorted(reasons.items())]
    others = "; select=KEY=VALUE limits a figure to other runs" if NO_PLACE in reasons else ""
    return f"Left out: {'; '.join(parts)}. ttt-plot compare draws any run{others}." if parts else ""


def left_out_in_short(results: Results, table: DataFrame) -> str:
    """Return ``left_out`` in the few words of a caption."""
    reasons, _ = _counted(results, table)
    parts = [f"{number} ({IN_SHORT[reason]})" for reason, number in sorted(reasons.items())]
    return f"Left out: {', '.join(parts)}; ttt-plot compare draws any." if parts else ""


def _counted(results: Results, table: DataFrame) -> tuple[Counter[str], Counter[str]]:
    """Count the runs that a figure does not draw, by reason, and the settings in which changed ones depart."""
    if "run_id" not in table:
        return Counter(), Counter()
    roles = dict(zip(table["run_id"], table["role"] if "role" in table else table["run_id"], strict=True))
    roles = {run_id: role for run_id, role in roles.items() if isinstance(run_id, str)}
    known: dict[str, str] = dict(methods(results)[["run_id", "role"]].itertuples(index=False))
    stopped = set(results.runs.loc[is_stopped(results.runs), "run_id"])
    known |= dict.fromkeys(stopped, RunRole.STOPPED)
    other_roles = {str(role) for role in RunRole} - {str(RunRole.DRAWN)}
    reasons: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for run_id in results.runs["run_id"]:
        departures = results.labels[run_id].departures.keys() - TRIED
        role = str(roles.get(run_id, known.get(run_id, NO_PLACE)))
        if run_id in roles:
            # Diverged runs in a table are drawn as crosses.
            reasons.update([role] if role in other_roles - {RunRole.DIVERGED} else [])
        elif departures and run_id not in stopped:
            reasons[DEPARTING] += 1
            keys.update(departures)
        else:
            reasons[role if role in other_roles else NO_PLACE] += 1
    return reasons, keys


def _in_words(reason: str, keys: Counter[str]) -> str:
    if reason != DEPARTING:
        return reason if reason == NO_PLACE else f"({reason})"
    named = sorted(keys, key=lambda key: (-keys[key], key))
    more = f" and {len(named) - MOST_KEYS} more" if len(named) > MOST_KEYS else ""
    return f"{DEPARTING} ({', '.join(named[:MOST_KEYS])}{more})"
