"""Scores on tasks of lm-evaluation-harness, as a run's record has them."""

from typing import NotRequired, TypedDict

PREFERRED = ("acc_norm", "acc")
"""Metrics that figures draw where a task has them; of other tasks the first one."""


class TaskScores(TypedDict):
    """The scores on a task, or their mean over a group of tasks.

    ``scores`` maps each metric, such as ``acc`` or ``exact_match,strict-match`` for filtered answers, to its value,
    None if it is not finite; ``errors`` has the standard errors of those that have one, ``higher_is_better`` whether
    larger values are better. ``documents`` were scored in contexts of at most ``ctx`` tokens, with ``num_fewshot``
    examples before each. ``version`` is the task's and ``harness`` the package's. ``step`` is the number of optimizer
    steps of the weights, ``weights`` their name if they were chosen instead of the newest, and ``part_of`` the group
    that was asked for.
    """

    task: str
    scores: dict[str, float | None]
    errors: dict[str, float]
    higher_is_better: dict[str, bool]
    documents: int
    ctx: int
    num_fewshot: int
    version: str
    harness: str
    step: int
    weights: NotRequired[str]
    part_of: NotRequired[str]


def main_metric(scores: TaskScores) -> str:
    """Return the metric by which runs are compared on this task."""
    return next((metric for metric in PREFERRED if metric in scores["scores"]), next(iter(scores["scores"]), ""))
