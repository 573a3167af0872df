"""The part of ``ttt-eval`` that scores a run on tasks of lm-evaluation-harness."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ttt.config.errors import bad_value
from ttt.config.identity import context_name
from ttt.config.schema import EvalConfig
from ttt.config.text_table import fitted_table
from ttt.evaluate.harness import load_tasks, require_harness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ttt.evaluate.run import TrainedRun
    from ttt.results.record import RunFolder
    from ttt.results.task_scores import TaskScores

ONLY_TASKS = ("task_path", "num_fewshot", "limit")
NOT_TASKS = ("probe", "data", "split", "longest", "eval_tokens")


def check_tasks(config: EvalConfig) -> None:
    """Check that the keys of tasks are given with ``tasks`` and no others, and that the harness is installed.

    Raises:
        UserError: they are not, or it is not.
    """
    for key in NOT_TASKS if config.tasks else ONLY_TASKS:
        value = getattr(config, key)
        if value is not None:
            allowed = "has no meaning for tasks=; leave it out" if config.tasks else "belongs to tasks=; leave it out"
            raise bad_value(key, getattr(value, "name", value), allowed)
    if config.tasks:
        require_harness()


def score_on_tasks(config: EvalConfig, folder: RunFolder, live: bool) -> None:
    """Score a run on the tasks of the configuration, print the scores and, unless ``live``, store them.

    Raises:
        UserError: an unknown task, or one whose data cannot be loaded; the run has no checkpoint.
        DivergedError: the model's loss is not finite.
    """
    # Tasks and their data first: what is missing is said before the model is read.
    tasks = load_tasks(config.tasks, config.task_path, config.num_fewshot)
    from ttt.evaluate.elsewhere import at_other_context
    from ttt.evaluate.harness_model import score_tasks
    from ttt.evaluate.run import load_run
    from ttt.models.device import choose_device
    from ttt.results.checkpoints import Choice

    choice = Choice(config.step, config.average)
    run = load_run(folder, choose_device(config.device, "device"), kernel=config.kernel, choice=choice)
    if config.ctx is not None:
        run = at_other_context(run, config.ctx)
    run = replace(run, writable=not live)
    scores = score_tasks(run, tasks, config.num_fewshot, config.limit)
    _print(run, scores)
    if config.limit is not None:
        print(f"limit={config.limit}: the first documents of each task; the scores are not stored", file=sys.stderr)
    elif not live and not run.stores("validation"):
        print("warning: the weights are older than the run's results; the scores are not stored", file=sys.stderr)


def _print(run: TrainedRun, scores: Mapping[str, TaskScores]) -> None:
    print(f"{run.record.folder.path}: tasks at ctx={context_name(run.reading.ctx)}, at {run.steps_in_words}")
    rows = [("task", "metric", "score", "error", "documents", "few-shot")]
    for of_task in scores.values():
        for metric, value in of_task["scores"].items():
            error = of_task["errors"].get(metric)
            shown = "inf" if value is None else f"{value:.4f}", "" if error is None else f"{error:.4f}"
            rows.append((of_task["task"], metric, *shown, str(of_task["documents"]), str(of_task["num_fewshot"])))
    print(fitted_table(rows, left=(0, 1)))
