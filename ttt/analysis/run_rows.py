"""The rows of ``Results.runs``, from the records of runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ttt.analysis.labels import COMPARED_AT, FINETUNED, METHOD
from ttt.analysis.seeds import changed_settings, settings_of
from ttt.config.errors import UserError
from ttt.config.label import Label
from ttt.config.schema import Resolved
from ttt.results.copying import COPIES_BELOW, FIRST_LOSS, REPEATED_LOSS
from ttt.results.record import Record, read_record
from ttt.results.steps import as_if_whole, steps_in_words, stopped_early

RUN_COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("run_id", "string"),
    "name": ("name", "string"),
    "status": ("status", "string"),
    "error": ("error", "string"),
    "sweep": ("sweep", "string"),
    "parent": ("config.parent.run_id", "string"),
    "model": ("config.model.name", "string"),
    "backbone": ("config.backbone.name", "string"),
    "size": ("config.size.name", "string"),
    "ctx": ("config.ctx.length", "Int64"),
    "data": ("data.name", "string"),
    "seed": ("seed", "Int64"),
    "mini_batch_size": ("config.model.mini_batch_size", "Int64"),
    "learning_rate": ("config.recipe.learning_rate", "Float64"),
    "kernel": ("config.kernel.name", "string"),
    "parameters": ("parameters.total", "Int64"),
    "embedding_parameters": ("parameters.embedding", "Int64"),
    "training_flops": ("training_flops", "Float64"),
    "tokens_per_step": ("tokens_per_step", "Int64"),
    "steps": ("steps", "Int64"),
    "steps_planned": ("steps_planned", "Int64"),
    "tokens": ("tokens", "Int64"),
    "validation_loss": ("results.validation.loss", "Float64"),
    "validation_perplexity": ("results.validation.perplexity", "Float64"),
    "validation_bits_per_byte": ("results.validation.bits_per_byte", "Float64"),
    "validation_accuracy": ("results.validation.accuracy", "Float64"),
    "validation_sequences": ("results.validation.sequences", "Int64"),
    "validation_tokens": ("results.validation.tokens", "Int64"),
    "validation_documents": ("results.validation.judged.documents", "Int64"),
    "test_loss": ("results.test.loss", "Float64"),
    "test_perplexity": ("results.test.perplexity", "Float64"),
    "test_bits_per_byte": ("results.test.bits_per_byte", "Float64"),
    "test_accuracy": ("results.test.accuracy", "Float64"),
    "test_tokens": ("results.test.tokens", "Int64"),
    "test_documents": ("results.test.judged.documents", "Int64"),
    "device": ("device.name", "string"),
    "precision": ("device.precision", "string"),
    "seconds": ("timing.seconds", "Float64"),
    "tokens_per_second": ("timing.tokens_per_second", "Float64"),
    "commit": ("git.commit", "string"),
    "data_digest": ("data.digest", "string"),
    FIRST_LOSS: (f"measurements.{FIRST_LOSS}", "Float64"),
    REPEATED_LOSS: (f"measurements.{REPEATED_LOSS}", "Float64"),
}
"""Column of ``Results.runs`` -> its key in the record, and its dtype. Values are missing where a record lacks it."""

KINDS: dict[str, tuple[type, ...]] = {"string": (str,), "Int64": (int,), "Float64": (int, float)}
"""Dtype of a column -> types of its values in a record."""

NEVER_MISSING = ("run_id", "status", "model", "backbone", "size", "ctx", "data", "seed", "steps")
"""Columns that a run must have."""

JOINED = " joined"
"""End of ``data_digest`` of runs with ``data.join=true``."""


@dataclass(frozen=True)
class ReadRun:
    """The parts of a record that the tables are made of; ``row`` has a value for each column.

    ``stopped`` says how far a run was trained that ``trainer.max_steps`` has stopped early; empty for others.
    """

    record: Record
    row: dict[str, Any]
    settings: dict[str, str]
    label: Label
    stopped: str


def read_run(path: Path, label: Callable[[Resolved], Label], stopped: bool = False) -> ReadRun:
    """Read a record; ``label`` labels its configuration if the record has no label.

    With ``stopped``, a run that ``trainer.max_steps`` has stopped early counts as one whose schedule ended there.

    Raises:
        UserError: the file is not a run's record.
    """
    record = read_record(path)
    early = steps_in_words(record) if stopped_early(record) else ""
    record = as_if_whole(record) if stopped else record
    try:
        plain = record.get("label")
        of_run = Label.from_plain(plain) if plain else label(record["config"])
        return ReadRun(record, _row(record), settings_of(record), of_run, early)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a run's record ({type(error).__name__}: {error}); restore or remove the run's folder"
        ) from error


def _row(record: Record) -> dict[str, Any]:
    """Return the run's row: ``RUN_COLUMNS`` and the record's measurements.

    Raises:
        TypeError: a value of another type than its column.
    """
    measured = {name: (f"measurements.{name}", "Float64") for name in record.get("measurements", {})}
    row: dict[str, Any] = {}
    for column, (key, dtype) in (measured | RUN_COLUMNS).items():
        row[column] = value = lookup(record, key)
        if not isinstance(value, KINDS[dtype]) and (value is not None or column in NEVER_MISSING):
            raise TypeError(f"{key}={value!r} is not of type {dtype}")
    if lookup(record, "config.data.join"):
        # Joined documents give other windows of the same text, so that losses do not compare.
        row["data_digest"] = f"{row['data_digest'] or ''}{JOINED}"
    return row


def runs_table(found: dict[Path, ReadRun]) -> pd.DataFrame:
    """Return ``Results.runs`` of the runs in these folders."""
    measured = {column for run in found.values() for column in run.row} - RUN_COLUMNS.keys()
    columns = {column: dtype for column, (_, dtype) in RUN_COLUMNS.items()} | dict.fromkeys(sorted(measured), "Float64")
    runs = pd.DataFrame(
        {
            column: pd.array([run.row.get(column) for run in found.values()], dtype=dtype)  # type: ignore[call-overload]
            for column, dtype in columns.items()
        }
    )
    runs["data"] = named_apart(runs["data"], runs["data_digest"])
    runs["run_dir"] = pd.array([str(path) for path in found], dtype="string")
    runs["copies"] = runs[REPEATED_LOSS] < COPIES_BELOW * runs[FIRST_LOSS]
    runs["start"] = runs["parent"].notna().map({True: FINETUNED, False: ""}).astype("string")
    groups = list(runs[[*COMPARED_AT, *METHOD]].itertuples(index=False, name=None))
    runs["changed"] = pd.array(changed_settings(groups, [run.settings for run in found.values()]), dtype="string")
    return runs


def named_apart(names: pd.Series, digests: pd.Series) -> pd.Series:
    """Add the digest to names of data that stand for several texts: of other packages, or of joined documents."""
    several = digests.groupby(names).transform("nunique") > 1
    short = digests.str.replace(r"^([^ ]{6})[^ ]*", r"\1", regex=True)
    return names.mask(several, names + " (" + short + ")")


def lookup(content: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a record or a benchmark; None if it lacks the key."""
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
