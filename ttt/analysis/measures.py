"""The measured values of runs by the names that users give them: perplexity, loss, flops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttt.analysis.comparison import RunRole, compare, reported_split

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

COSTS = ("flops", "parameters", "seconds", "tokens", "steps")
"""Measured values that are costs: against them a figure also draws the lowest value that each cost has reached."""

OF_SPEED = ("seconds", "tokens_per_second")
"""Measured values that the kernel changes."""

JUDGED = ("perplexity", "loss", "bits_per_byte", "accuracy")
"""Measured values of an evaluation, which are on the split that ``reported_split`` chooses."""

OF_ITS_TEXT = ("perplexity", "loss", "accuracy", "inner_loss")
"""Measured values that do not compare across texts or tokenizers."""

MEASURED_BY = {
    "bits_per_byte": "ttt-eval run=runs/NAME measures it",
    "accuracy": "ttt-eval run=runs/NAME measures it",
    "memory": "runs before this version did not measure it",
    "inner_loss": "ttt-eval run=runs/NAME probe=inner_loss measures it",
}
"""Measured value that runs may lack -> its source."""

LABELS = {
    "perplexity": "perplexity (per token)",
    "loss": "loss (nats/token)",
    "bits_per_byte": "loss (bits per byte of text)",
    "accuracy": "accuracy (share of tokens)",
    "inner_loss": "Inner loss after the update (squared error per dimension)",
    "flops": "Training FLOPs",
    "parameters": "Parameters",
    "seconds": "Training time (s)",
    "tokens": "Training tokens",
    "tokens_per_second": "Training speed (tokens/s)",
    "memory": "Peak memory of training (MB)",
    "steps": "Training steps",
}
"""Name -> label of its axis; the split comes before those of ``JUDGED``."""


@dataclass(frozen=True)
class Measure:
    """A measured value: its name, the label of its axis, and a value for each run, missing where it has none."""

    name: str
    label: str
    values: Series


def measure(results: Results, name: str) -> Measure | None:
    """Return the measured value ``name`` of all runs, in their order, or None if there is none of this name.

    Those of ``JUDGED`` are on the split that ``reported_split`` chooses. ``flops`` includes the training of the run
    that a run starts from. ``inner_loss`` is the mean over layers and positions of a probe. Every other number in
    ``Results.runs`` has the name of its column.
    """
    runs = results.runs
    if name in JUDGED:
        split = shown_split(results)
        return Measure(name, f"{split.capitalize()} {LABELS[name]}", runs[f"{split}_{name}"])
    if name == "flops":
        return Measure(name, LABELS[name], runs["run_id"].map(compare(results, runs).set_index("run_id")["flops"]))
    if name == "inner_loss":
        probed = results.select_inner_loss()
        last = probed[probed["step"] == probed.groupby("run_id", observed=True)["step"].transform("max")]
        means = last.groupby("run_id", observed=True)["loss_after"].mean()
        return Measure(name, LABELS[name], runs["run_id"].astype(object).map(means).astype("Float64"))
    if name == "memory":
        peak = runs["peak_memory"] if "peak_memory" in runs else runs["training_flops"] * float("nan")
        return Measure(name, LABELS[name], peak / 1e6)
    if name in measured_columns(runs):
        words = name.replace("_", " ")
        return Measure(name, LABELS.get(name, words[:1].upper() + words[1:]), runs[name])
    return None


def shown_split(results: Results) -> str:
    """Return the split on which the values of ``JUDGED`` are shown."""
    runs = results.runs
    return reported_split(runs.assign(role=RunRole.DRAWN.value)[runs["validation_loss"].notna()])


def measured_columns(runs: DataFrame) -> list[str]:
    """Return the columns of ``Results.runs`` that hold measured numbers."""
    numbers = runs.select_dtypes("number").columns
    return [str(name) for name in numbers if name not in ("seed", "ctx", "mini_batch_size", "learning_rate")]


def measure_names(results: Results) -> list[str]:
    """Return the names of all measured values."""
    return list(dict.fromkeys([*LABELS, *measured_columns(results.runs)]))
