"""A run's folder and its record: everything about a run that is not a curve."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

from ttt.config.schema import Resolved
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"

Status = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie below ``path``."""

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
        """What a probe saw in the inner loops, see ``ttt.results.inner_loss``; most runs have none."""
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
    """What the run computed on: the device's name, how many of them, and the precision."""

    name: str
    count: int
    precision: str


class Parameters(TypedDict):
    """Parameter counts; ``embedding`` is the part of ``total`` that is the (tied) token embedding."""

    total: int
    embedding: int


class Data(TypedDict):
    """The data set; ``digest`` identifies its content, so that equal names with other text are told apart.

    ``tokenizer_sha256`` identifies the meaning of its tokens, which runs on other text may share.
    """

    name: str
    digest: str
    vocab_size: int
    tokenizer_sha256: NotRequired[str]


class Evaluation(TypedDict):
    """One split's result: ``loss`` in nats per token, and ``per_token_sequences`` behind the loss by token index."""

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

    ``error`` is one line when ``status`` is "failed". ``steps`` and ``tokens`` were done; the run ends after
    ``steps_planned``. ``training_flops`` is the whole run's. ``results`` has one evaluation for each split evaluated.
    ``versions`` comes from ``provenance.versions``. ``warnings`` are lines ``subject: text`` about what went wrong
    without ending the run; most records have none.
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
    warnings: NotRequired[list[str]]


def write_record(path: Path, record: Record) -> None:
    """Replace the file ``path`` by ``record``; other processes see the old record or the new one.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(record, indent=2) + "\n")


def put_warnings(record: Record, texts: Mapping[str, str]) -> None:
    """Adds a line for each subject of ``texts``, in the place of an earlier one about the same subject."""
    if texts:
        kept = [line for line in record.get("warnings", []) if line.partition(": ")[0] not in texts]
        record["warnings"] = kept + [f"{subject}: {text}" for subject, text in texts.items()]


def read_record(path: Path) -> Record:
    """The record in the file ``path``.

    Raises:
        UserError: no such file, not a record, or one that a newer version of this package wrote.
    """
    hint, remedy = f"a run's folder holds {RECORD_FILE}", "restore or remove the run's folder"
    found = read_versioned(path, SCHEMA_VERSION, Record.__required_keys__, "a run's record", hint, remedy)
    return cast(Record, found)
