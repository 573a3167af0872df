"""The runs below a folder, as ``ttt-runs`` lists them: read from their records alone, without pandas."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ttt.analysis.labels import method_label
from ttt.config.errors import UserError
from ttt.config.identity import context_name
from ttt.config.label import TRIED, TRIED_IN_TEXT, Label, TableForm, names_only
from ttt.config.schema import Resolved
from ttt.results.lock import LOCK_FILE, held_by
from ttt.results.record import RECORD_FILE, Record, RunFolder, read_record
from ttt.results.steps import stopped_early

HASH_LENGTH = 8
"""Characters of the hash at the end of a run id."""


@dataclass(frozen=True)
class ListedRun:
    """A run folder.

    Attributes:
        folder: the run's folder.
        record: its record.
        size: bytes of all its files.
        label: its method, size, context and departures from the standard, for readers.
        status: of the record; ``stopped`` for a run that ``trainer.max_steps`` has stopped early, ``killed`` for one
            that is recorded as running and has no process.
    """

    folder: Path
    record: Record
    size: int
    label: str
    status: str

    @property
    def id(self) -> str:
        """The hash of the run's id if the folder's name ends with it, or the whole name."""
        name, digest = self.folder.name, self.record["run_id"].rpartition("-")[2]
        return digest if name.endswith(f"-{digest}") and len(digest) == HASH_LENGTH else name

    @property
    def perplexity(self) -> float | None:
        """Validation perplexity, if the run was evaluated."""
        validation = self.record["results"].get("validation")
        return validation["perplexity"] if validation else None

    @property
    def since(self) -> datetime | None:
        """When the run ended, or started if it has not ended; None if the record does not say."""
        timing = self.record["timing"]
        try:
            when = datetime.fromisoformat(timing.get("ended") or timing.get("started") or "")
        except ValueError:
            return None
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def came_from(self, other: "ListedRun") -> bool:
        """Return whether this run started from the weights of the run ``other``."""
        parent = self.record["config"].get("parent", {})
        same_folder = bool(parent.get("run")) and Path(parent["run"]).resolve() == other.folder.resolve()
        return same_folder or parent.get("run_id") == other.record["run_id"]

    def as_json(self) -> dict[str, Any]:
        """Return the run as a JSON object: one entry per column of the list."""
        record = self.record
        return {
            "folder": str(self.folder),
            "run_id": record["run_id"],
            "label": self.label,
            "status": self.status,
            "steps": record["steps"],
            "steps_planned": record["steps_planned"],
            "tokens": record["tokens"],
            "parameters": record["parameters"].get("total"),
            "validation_perplexity": self.perplexity,
            "since": self.since.isoformat() if self.since else None,
            "bytes": self.size,
        }


def list_runs(folder: Path) -> tuple[list[ListedRun], list[str]]:
    """Return the runs below ``folder``, at any depth, the newest last, and a line for each that cannot be read."""
    runs, unreadable = [], []
    for path in run_folders(folder):
        try:
            runs.append(read_run_folder(path))
        except UserError as error:
            unreadable.append(str(error))
    return sorted(runs, key=lambda run: (run.since or datetime.min.replace(tzinfo=UTC), run.folder)), unreadable


def read_run_folder(path: Path) -> ListedRun:
    """Return the run in the folder ``path``.

    Raises:
        UserError: it has no record, or one that cannot be read.
    """
    file = RunFolder(path).record
    record = read_record(file)
    try:
        plain = record.get("label")
        label = label_in_words(Label.from_plain(plain) if plain else names_only(record["config"]), record["config"])
        return ListedRun(path, record, bytes_of(path), label, _status(path, record))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: not a run's record ({reason}); restore or remove the run's folder") from error


def label_in_words(label: Label, config: Resolved) -> str:
    """Return a label for readers, such as ``TTT-Linear (M) s1 512 mini_batch_size=4 seed=1``.

    Only what departs from the standard is named: a row of Table 1, or settings; a learning rate that is not the
    size's; a seed that is not 0.
    """
    parts = [method_label(label.model, label.backbone), label.size, context_name(label.ctx)]
    departures = dict(label.departures)
    in_row = label.departures_of("model") if label.row else set()
    if in_row:
        parts += [f"row {label.row}"] + ([label.form.value] if label.form and label.form != TableForm.RELEASED else [])
        departures = {key: departures[key] for key in departures if key not in in_row - TRIED - TRIED_IN_TEXT}
    rate, usual = config["recipe"].get("learning_rate"), config["size"].get("learning_rate")
    usual = usual.get(label.backbone) if isinstance(usual, dict) else usual
    if rate != usual:
        departures["recipe.learning_rate"] = rate
    if config["seed"]:
        departures["run.seed"] = config["seed"]
    return " ".join([*parts, *(f"{key.partition('.')[2]}={_plain(value)}" for key, value in departures.items())])


def bytes_of(folder: Path | str) -> int:
    """Return the bytes of all files below a folder; a linked folder, such as of checkpoints, counts too."""
    total = 0
    for entry in os.scandir(folder):
        if entry.is_dir():
            total += bytes_of(entry.path)
        elif entry.is_file():
            total += entry.stat().st_size
    return total


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> values, for the keys in which two plain configurations differ; None: it lacks the key."""
    ours, theirs = dict(_leaves(first)), dict(_leaves(second))
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    # Names in a list without quotation marks, as the command line takes them.
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "").replace("'", "")


def run_folders(folder: Path | str) -> Iterator[Path]:
    """Yield the folders with a record; a run's folder has no runs in it."""
    entries = list(os.scandir(folder))
    if any(entry.name == RECORD_FILE for entry in entries):
        yield Path(folder)
        return
    for entry in entries:
        if entry.is_dir():
            yield from run_folders(entry.path)


def _status(path: Path, record: Record) -> str:
    if record["status"] == "running" and not ((path / LOCK_FILE).exists() and held_by(path)):
        return "killed"
    return "stopped" if stopped_early(record) else record["status"]
