"""The steps of a run: done, of its whole schedule, and whether ``trainer.max_steps`` ended it before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.results.record import Record


def stopped_early(record: Record) -> bool:
    """Return whether the run has ended as requested by ``trainer.max_steps`` before the end of its schedule."""
    return record["status"] == "finished" and record["steps"] < record["steps_planned"]


def steps_in_words(record: Record) -> str:
    """Return ``300 steps``, or ``3 of 300 steps`` of a run that has not done its whole schedule."""
    done, planned = record["steps"], record["steps_planned"]
    return f"{done:,} of {planned:,} steps" if done < planned else f"{done:,} steps"


def as_if_whole(record: Record) -> Record:
    """Return the record of a run that was stopped early as if its schedule had ended there; others are unchanged."""
    if not stopped_early(record):
        return record
    share = record["steps"] / record["steps_planned"]
    return {**record, "steps_planned": record["steps"], "training_flops": record["training_flops"] * share}


def with_schedule(record: dict[str, Any]) -> dict[str, Any]:
    """Translate a record of version 1 or 2, where ``steps_planned`` and ``training_flops`` end at ``max_steps``."""
    recipe, limit = record["config"].get("recipe", {}), record["config"].get("trainer", {}).get("max_steps")
    numbers = (limit, recipe.get("steps"), recipe.get("tokens_per_step"), record["tokens_per_step"])
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        return record
    schedule = max(1, recipe["steps"] * recipe["tokens_per_step"] // record["tokens_per_step"])
    flops = record["training_flops"] * schedule / min(schedule, limit)
    return {**record, "steps_planned": schedule, "training_flops": flops}
