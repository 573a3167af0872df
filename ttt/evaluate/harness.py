"""Tasks of lm-evaluation-harness: found by name, with their data, before a model is loaded."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ttt.config.errors import UserError, bad_value, first_line

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

SEED = 1234
"""Seed of the examples before a question; the harness's own."""


@dataclass(frozen=True)
class Tasks:
    """Tasks with their data.

    Attributes:
        tasks: name -> task, without groups.
        groups: name -> group, also those within others.
        part_of: name of a task or group -> name of the group that was asked for.
    """

    tasks: dict[str, Task]
    groups: dict[str, Group]
    part_of: dict[str, str]


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("lm_eval") is None:
        raise UserError("tasks: needs lm-evaluation-harness; pip install 'ttt-suite[tasks]', or pip install lm-eval")


def load_tasks(names: list[str], folder: str | None, num_fewshot: int | None) -> Tasks:
    """Return the tasks, groups and tags of these names, with their data.

    Args:
        names: of tasks in ``folder``, or of the package.
        folder: folder of task files; None: only the package's tasks.
        num_fewshot: examples before each question; None: as many as the task's file says. A task that says 0 has 0.

    Raises:
        UserError: an unknown name, a task that the suite cannot run, or one whose data cannot be fetched.
    """
    manager = _manager(names, folder)
    # The clients of the hub, which the import has set up, log every attempt; the user should see one line.
    for client in ("huggingface_hub", "datasets"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    for name in names:
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {close[0]}?" if close else "lm-eval ls tasks lists them"
            raise bad_value("tasks", name, f"no such task; {hint}")
    found = Tasks({}, {}, {})
    for name in names:
        _add(found, name, manager)
    for name, task in found.tasks.items():
        _refuse_unsuited(name, task)
        told = task.get_config("num_fewshot")
        if told is None or (num_fewshot is not None and told != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    return found


def _manager(names: list[str], folder: str | None) -> TaskManager:
    """Return the index of the folder's tasks; with those of the package, which take long to read, if one is asked for.

    Raises:
        UserError: there is no such folder, or it has no task file.
    """
    from lm_eval.tasks import TaskManager

    if folder is not None:
        if not Path(folder).is_dir():
            raise bad_value("task_path", folder, "no such folder; give one with task files (YAML)")
        own = TaskManager(include_path=folder, include_defaults=False)
        if not own.all_tasks:
            raise bad_value("task_path", folder, "has no task file; a task is a file NAME.yaml with the key task")
        if all(name in own.task_index for name in names):
            return own
    return TaskManager(include_path=folder)


def _add(found: Tasks, name: str, manager: TaskManager) -> None:
    """Load a task, or all tasks of a group or tag, and their data."""
    try:
        loaded = manager.load([name])
    except Exception as error:  # of the hub's clients, of files, or of packages that a task needs
        why = f"{type(error).__name__}: {first_line(error)}"
        allowed = f"its data cannot be loaded ({why}); try again with a network, or copy the cache of datasets here"
        raise bad_value("tasks", name, allowed) from error
    found.tasks.update(loaded["tasks"])
    found.groups.update(loaded.get("groups", {}))
    if name in found.groups:
        found.part_of.update(dict.fromkeys({*loaded["tasks"], *loaded["groups"]} - {name}, name))


def _refuse_unsuited(name: str, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise bad_value("tasks", name, "runs code that the model writes, which the suite does not; leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise bad_value("tasks", name, "needs a model that reads images or sound; leave it out")
