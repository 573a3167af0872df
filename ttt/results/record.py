"""A run's folder and its record: everything about a run that is not a curve."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

from ttt.config.errors import UserError
from ttt.config.identity import without_bookkeeping
from ttt.config.schema import Resolved
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 2
RECORD_FILE = "record.json"

Status = Literal["running", "finished", "diverged", "failed", "interrupted"]

DIVERGENCE_IN_VERSION_1 = re.compile(r"became (?:nan|-?inf)|not finite|diverged")
"""The error of a diverged run in records of version 1, whose status is "failed"."""


KINDS: dict[str, type] = {
    "run_id": str,
    "status": str,
    "config": dict,
    "seed": int,
    "steps": int,
    "tokens_per_step": int,
    "data": dict,
    "results": dict,
    "timing": dict,
}
"""Key of a record -> type of its value, for keys that decide what is done with a run."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files below ``path``."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """A ``Record``, JSON."""
        return self.path / RECORD_FILE

    @property
    def metrics(self) -> Path:
        """One long table, see ``ttt.results.metrics``."""
        return self.path / "metrics.parquet"

    @property
    def inner_loss(self) -> Path:
        """The inner losses measured by a probe, see ``ttt.results.inner_loss``; most runs have none."""
        return self.path / "inner_loss.parquet"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"


class GitState(TypedDict):
    """The commit of the code, and whether files differed from it."""

    commit: str
    dirty: bool


class Device(TypedDict):
    """The device of a run: its name, the number of devices, and the precision."""

    name: str
    count: int
    precision: str


class Parameters(TypedDict):
    """Parameter counts; ``embedding`` is the part of ``total`` that is the (tied) token embedding."""

    total: int
    embedding: int


class Data(TypedDict):
    """The data set. ``digest`` identifies its content, which may differ between data sets of one name.

    ``tokenizer_sha256`` identifies its tokenizer, which other data sets may share.
    """

    name: str
    digest: str
    vocab_size: int
    tokenizer_sha256: NotRequired[str]


class Evaluation(TypedDict):
    """The result on one split: ``loss`` in nats per token; ``per_token_sequences`` gave the loss by token index."""

    loss: float
    perplexity: float
    tokens: int
    sequences: int
    per_token_sequences: int


class Timing(TypedDict):
    """Start and end in ISO 8601 UTC; ``seconds`` and ``tokens_per_second`` of training."""

    started: str
    ended: str | None
    seconds: float | None
    tokens_per_second: float | None


class Record(TypedDict):
    """``record.json``.

    ``error`` is one line when ``status`` is "failed", "diverged" or "interrupted". ``steps`` and ``tokens`` were done;
    the run ends after ``steps_planned``. ``training_flops`` is the whole run's. ``results`` has one evaluation for each
    split evaluated. ``versions`` comes from ``provenance.versions``. ``warnings`` maps a subject, such as
    "train, layer 1, head 0", to the newest warning about it; most records have none. ``identity`` is the part of
    ``config`` that ``run_id`` was made of, see ``ttt.config.identity``. ``label`` describes the run for figures.
    """

    schema_version: int
    run_id: str
    name: str
    status: Status
    error: str | None
    config: Resolved
    overrides: list[str]
    sweep: str | None
    git: GitState | None
    versions: dict[str, str]
    device: Device
    seed: int
    parameters: Parameters
    training_flops: float
    tokens_per_step: int
    steps: int
    steps_planned: int
    tokens: int
    data: Data
    last_checkpoint: str | None
    results: dict[str, Evaluation]
    timing: Timing
    warnings: NotRequired[dict[str, str]]
    identity: NotRequired[Resolved]
    label: NotRequired[dict[str, Any]]


def write_record(path: Path, record: Record) -> None:
    """Replace the file ``path`` by ``record``; other processes see the old record or the new one.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> Record:
    """Return the record in the file ``path``, one of version 1 translated to today's.

    A record may have keys that this version does not know.

    Raises:
        UserError: the file is missing, is no record, lacks a required key, or has a value of another type.
    """
    hint, remedy = f"a run's folder holds {RECORD_FILE}", "restore or remove the run's folder"
    found = read_versioned(path, SCHEMA_VERSION, Record.__required_keys__, "a run's record", hint, remedy)
    for key, kind in KINDS.items():
        if not isinstance(found[key], kind):
            raise UserError(
                f"{path}: not a run's record ({key}={found[key]!r} is not of type {kind.__name__}); {remedy}"
            )
    return cast(Record, _translated(found) if found["schema_version"] == 1 else found)


def _translated(record: dict[str, Any]) -> dict[str, Any]:
    changed = {**record, "schema_version": SCHEMA_VERSION}
    if record["status"] == "failed" and DIVERGENCE_IN_VERSION_1.search(record["error"] or ""):
        changed["status"] = "diverged"
    if "warnings" in record:
        lines = (line.partition(": ") for line in record["warnings"])
        changed["warnings"] = {subject: text for subject, _, text in lines}
    return changed


def identity_of(record: Record) -> Resolved:
    """Return the part of the configuration that makes two runs the same run.

    Records that do not hold it were written before any key was added, so that all their keys count.
    """
    return record["identity"] if "identity" in record else without_bookkeeping(record["config"])


def require_data(folder: RunFolder, record: Record, digest: str) -> None:
    """Check that data is what the run was trained on: other versions of its packages have other text.

    Raises:
        UserError: the data's ``digest`` is another.
    """
    trained_on = record["data"]["digest"]
    if digest != trained_on:
        raise UserError(
            f"{folder.path}: was trained on data with digest {trained_on[:12]}, here it is {digest[:12]}; "
            f"install the versions in its record, or train again"
        )
