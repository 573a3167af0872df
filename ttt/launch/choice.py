"""The choice of runs to submit now: canaries before the other runs of their shape, parents before children, a limit."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ttt.config.errors import counted
from ttt.config.identity import identity, model_shape
from ttt.launch.plan import Plan, SweepFolder
from ttt.launch.status import ACTIVE, RunStatus
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1


Reason = Literal["canary", "parent", "limit"]


@dataclass(frozen=True)
class Held:
    """The reason for which a run is not submitted yet: its canary or parent (a run_id), or the limit."""

    because: Reason
    of: str


@dataclass(frozen=True)
class Choice:
    """The runs to submit now, and the reason for which others are held back, by run_id."""

    now: list[RunStatus]
    held: dict[str, Held]


def shapes(plan: Plan) -> dict[str, str]:
    """Return the shape of every run: the settings, other than seed and recipe, that decide how it trains."""
    found = {}
    for run in plan.runs:
        config = plan.configs[run.run_id]
        counts = identity(config)
        parts = [counts[group] for group in ("ctx", "kernel", "data")]
        parts += [model_shape(counts), asdict(config.trainer), run.nodes, run.devices, run.resources]
        found[run.run_id] = json.dumps(parts, sort_keys=True)
    return found


def choose(
    statuses: list[RunStatus], candidates: Collection[str], shape_of: Mapping[str, str] | None, limit: int | None
) -> Choice:
    """Choose among the candidates, in the order of the plan.

    Args:
        statuses: status of every run of the sweep.
        candidates: run ids to choose from.
        shape_of: run_id -> shape: of a shape of which no run has trained a step, only a canary is chosen, with the
            runs it starts from. None: no canaries.
        limit: largest number of runs to choose; None: no limit.
    """
    by_id = {status.run.run_id: status for status in statuses}
    canary_of = {} if shape_of is None else _canaries(statuses, shape_of)
    needed = {ancestor for canary in canary_of.values() for ancestor in _with_ancestors(by_id, canary)}
    now, held = dict[str, RunStatus](), dict[str, Held]()
    for run_id, status in by_id.items():
        if run_id not in candidates:
            continue
        parent, canary = by_id.get(status.run.parent or ""), canary_of.get(run_id)
        if canary is not None and run_id not in needed:
            held[run_id] = Held("canary", canary)
        elif parent and parent.state not in (*ACTIVE, "finished") and parent.run.run_id not in now:
            held[run_id] = Held("parent", parent.run.run_id)
        elif limit is not None and len(now) >= limit:
            held[run_id] = Held("limit", str(limit))
        else:
            now[run_id] = status
    return Choice(list(now.values()), held)


def _canaries(statuses: list[RunStatus], shape_of: Mapping[str, str]) -> dict[str, str]:
    """Return the canary of every run whose shape has not trained a step yet: run_id -> run_id."""
    members: dict[str, list[RunStatus]] = {}
    for status in statuses:
        members.setdefault(shape_of[status.run.run_id], []).append(status)
    canary_of = dict[str, str]()
    for runs in members.values():
        possible = [status for status in runs if not status.given_up]
        if any(status.has_trained for status in runs) or not possible:
            continue
        # A run that waits or runs is the canary already; a run with a parent could not train at once.
        canary = min(possible, key=lambda status: (status.state not in ACTIVE, status.run.parent is not None))
        canary_of |= {status.run.run_id: canary.run.run_id for status in runs}
    return canary_of


def _with_ancestors(by_id: Mapping[str, RunStatus], run_id: str | None) -> list[str]:
    found = []
    while run_id is not None:
        found.append(run_id)
        run_id = by_id[run_id].run.parent
    return found


def write_held(folder: SweepFolder, held: Mapping[str, Held]) -> None:
    """Save the reasons of the last submission in the sweep's folder."""
    content = {"schema_version": SCHEMA_VERSION, "held": {run_id: asdict(one) for run_id, one in held.items()}}
    write_text(folder.held, json.dumps(content, indent=1) + "\n")


def read_held(folder: SweepFolder) -> dict[str, Held]:
    """Return the reasons of the last submission; earlier versions wrote none.

    Raises:
        UserError: the file is broken.
    """
    if not folder.held.exists():
        return {}
    remedy = "remove it, and submit the sweep again"
    content = read_versioned(folder.held, SCHEMA_VERSION, {"held"}, "a list of runs that are held back", "", remedy)
    return {run_id: Held(**one) for run_id, one in content["held"].items()}


def with_reasons(folder: SweepFolder, statuses: list[RunStatus]) -> list[RunStatus]:
    """Return the statuses; those of runs that are held back have the reason.

    Raises:
        UserError: the file of the reasons is broken.
    """
    held, by_id = read_held(folder), {status.run.run_id: status for status in statuses}
    return [
        replace(status, detail=_reason(held[run_id], by_id))
        if status.state == "not submitted" and run_id in held
        else status
        for run_id, status in by_id.items()
    ]


def _reason(held: Held, by_id: Mapping[str, RunStatus]) -> str:
    if held.because == "limit":
        return f"held back by limit={held.of}; submit again"
    if held.because == "parent":
        return f"held back until {held.of} is submitted"
    canary = by_id[held.of]
    if canary.has_trained:
        return f"its canary {held.of} has trained a step; submit again"
    return f"held back until its canary {held.of} trains a step" + (
        "" if canary.state in ACTIVE else f", which is {canary.state}"
    )


def summary(held: Mapping[str, Held]) -> str:
    """Return the number of runs that are held back, for each reason."""
    texts: dict[Reason, str] = {
        "canary": "until a canary of the same shape trains a step",
        "parent": "until the run they start from is submitted",
        "limit": "by limit=N",
    }
    numbers = Counter(one.because for one in held.values())
    return "held back: " + ", ".join(
        f"{counted(numbers[key], 'run')} {text}" for key, text in texts.items() if numbers[key]
    )
