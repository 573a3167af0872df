"""The record of a run in progress. Only this module changes and writes ``record.json``."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ttt.config.errors import UserError
from ttt.results.record import Evaluation, Record, RunFolder, Status, config_agrees, read_record, write_record
from ttt.results.task_scores import TaskScores

SECONDS_BETWEEN_RECORDS = 15.0

Label = dict[str, Any] | None
"""The description of a run for figures, as JSON; see ``ttt.config.label``."""


def now() -> str:
    """Return the current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord:
    """The record of the run in ``folder``; each method updates it, and some write the file.

    Args:
        folder: the run's folder.
        content: the record's content.
        writes: whether this process writes the file; other processes of a distributed run only count steps.
    """

    def __init__(self, folder: RunFolder, content: Record, writes: bool = True) -> None:
        self.folder, self.content, self.writes = folder, content, writes
        self._opened = time.monotonic()
        self.start_clock()

    @classmethod
    def read(cls, folder: RunFolder) -> "RunRecord":
        """Return the record of an existing run; warn if its ``config.yaml``, which is for readers, does not agree.

        Raises:
            UserError: the record is missing or broken.
        """
        content = read_record(folder.record)
        if not config_agrees(folder, content):
            damaged = "is damaged or was edited; the configuration in record.json is used"
            print(f"warning: {folder.config}: {damaged}", file=sys.stderr)
        return cls(folder, content)

    @property
    def run_id(self) -> str:
        """The run's name, used in every row of its tables."""
        return self.content["run_id"]

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return self.content["steps"]

    @property
    def last_checkpoint(self) -> str | None:
        """Name of the newest checkpoint."""
        return self.content["last_checkpoint"]

    @property
    def deleted(self) -> str:
        """The error message for a folder that was deleted during the run."""
        return f"{self.folder.path}: was deleted while the run wrote there; start it again"

    @property
    def warnings(self) -> Mapping[str, str]:
        """Subject -> newest warning about it."""
        return self.content.get("warnings", {})

    def resume(
        self, step: int, checkpoint: str, steps_planned: int, overrides: list[str], sweep: str | None, label: Label
    ) -> None:
        """Record that the run resumes from a checkpoint after ``step`` steps, and drop its earlier results."""
        content = self.content
        content["status"], content["error"], content["results"] = "running", None, {}
        content.pop("measurements", None)
        content.pop("evaluations", None)
        content.pop("tasks", None)
        content["steps"], content["last_checkpoint"], content["steps_planned"] = step, checkpoint, steps_planned
        content["overrides"], content["sweep"] = overrides, sweep or content["sweep"]
        if label is not None:
            content["label"] = label

    def start_clock(self) -> None:
        """Start to measure the time of training, from the current step.

        The first step, in which kernels are compiled, counts only if it remains the only one.
        """
        self._started = self._measured = time.monotonic(), self.content["steps"]
        self._after_first: tuple[float, int] | None = None

    def paused(self, seconds: float) -> None:
        """Leave out a pause of the training from the measured time, such as for a validation."""
        self._started, self._measured = _later(self._started, seconds), _later(self._measured, seconds)
        self._after_first = self._after_first and _later(self._after_first, seconds)

    def step(self, step: int) -> None:
        """Record that ``step`` optimizer steps are done; write the file every ``SECONDS_BETWEEN_RECORDS``."""
        self.content["steps"], self.content["tokens"] = step, step * self.content["tokens_per_step"]
        due = time.monotonic() - self._measured[0] >= SECONDS_BETWEEN_RECORDS
        if self._after_first is None:
            self._after_first = self._measured = time.monotonic(), step
        elif due:
            self._measure()
        if due:
            # An old record does no harm; the next checkpoint reports a full disk.
            with suppress(UserError):
                self.write()

    def saved(self, checkpoint: str) -> None:
        """Record the newest checkpoint and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.content["last_checkpoint"] = checkpoint
        self._measure()
        self.write()

    def rewound(self, checkpoint: str | None) -> None:
        """Record the newest checkpoint after later ones were set aside; None: there is none."""
        self.content["last_checkpoint"] = checkpoint

    def warn(self, warnings: Mapping[str, str]) -> None:
        """Add warnings, subject -> text; each replaces an earlier warning about the same subject."""
        if warnings:
            others = {subject: text for subject, text in self.warnings.items() if subject not in warnings}
            self.content["warnings"] = others | dict(warnings)

    def measured(self, name: str, value: float) -> None:
        """Note a number that the run measured once; figures find it in the column ``name`` of ``Results.runs``."""
        self.content.setdefault("measurements", {})[name] = float(value)

    def evaluated(self, split: str, evaluation: Evaluation) -> None:
        """Record the result on a split and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.content["results"][split] = evaluation
        self.write()

    def evaluated_elsewhere(self, name: str, evaluation: Evaluation) -> None:
        """Record the result at another context or on another text, beside the run's own, and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.content.setdefault("evaluations", {})[name] = evaluation
        self.write()

    def scored(self, scores: Mapping[str, TaskScores]) -> None:
        """Record scores on tasks, each in place of an earlier one of its name, and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.content.setdefault("tasks", {}).update(scores)
        self.write()

    def trained(self) -> None:
        """Record the tokens per second since ``start_clock``."""
        first = self._after_first
        self._measured = first if first and first[1] < self.content["steps"] else self._started
        self._measure()

    def end(self, status: Status, error: str | None) -> None:
        """Record how the run ended and write the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.content["status"], self.content["error"] = status, error
        self.content["timing"]["ended"] = now()
        self.content["timing"]["seconds"] = round(time.monotonic() - self._opened, 3)
        self.write()

    def write(self) -> None:
        """Write the file, only in the first process.

        Raises:
            UserError: the file cannot be written, or the run's folder was deleted; it is not created again.
        """
        if self.writes:
            self.require_folder()
            write_record(self.folder.record, self.content)

    def require_folder(self) -> None:
        """Check that the folder still exists.

        Raises:
            UserError: it was deleted.
        """
        if not self.folder.path.exists():
            raise UserError(self.deleted)

    def _measure(self) -> None:
        began, step = self._measured
        tokens = (self.content["steps"] - step) * self.content["tokens_per_step"]
        if tokens:
            self.content["timing"]["tokens_per_second"] = round(tokens / max(time.monotonic() - began, 1e-6), 1)
        self._measured = time.monotonic(), self.content["steps"]


def _later(clock: tuple[float, int], seconds: float) -> tuple[float, int]:
    """Return a time and the step at it, the time moved by some seconds."""
    return clock[0] + seconds, clock[1]
