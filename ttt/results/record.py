"""A run's folder, and its record: everything about a run except its curves."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import yaml

from ttt.config.errors import UserError
from ttt.config.identity import without_bookkeeping
from ttt.config.schema import Resolved
from ttt.results.atomic import write_text
from ttt.results.steps import with_schedule
from ttt.results.task_scores import TaskScores
from ttt.results.versioned import digest, is_intact, read_versioned

SCHEMA_VERSION = 3
STATE_SIZE = "state_size"
"""Measurement of a record: the numbers in the state of one sequence after a whole context."""

RECORD_FILE = "record.json"
EVALUATIONS = "evaluations"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Names of the copy of the tokenizer in a run's folder; a run has one of them."""

Status = Literal["running", "finished", "diverged", "failed", "interrupted"]

DIVERGENCE_IN_VERSION_1 = re.compile(r"became (?:nan|-?inf)|not finite|diverged")
"""Errors of diverged runs in records of version 1, where their status is "failed"."""


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
        """The record, a ``Record`` as JSON."""
        return self.path / RECORD_FILE

    @property
    def metrics(self) -> Path:
        """The table of metrics, see ``ttt.results.metrics``."""
        return self.path / "metrics.parquet"

    @property
    def inner_loss(self) -> Path:
        """The inner losses measured by a probe, see ``ttt.results.inner_loss``; most runs have none."""
        return self.path / "inner_loss.parquet"

    @property
    def context_gain(self) -> Path:
        """The losses by context measured by a probe, see ``ttt.results.context_gain``; most runs have none."""
        return self.path / "context_gain.parquet"

    @property
    def needle(self) -> Path:
        """The recall of planted lines measured by a probe, see ``ttt.results.needle``; most runs have none."""
        return self.path / "needle.parquet"

    @property
    def documents(self) -> Path:
        """The losses by document of the evaluations, see ``ttt.results.document_losses``."""
        return self.path / "documents.parquet"

    @property
    def tables(self) -> list[Path]:
        """The possible tables besides the metrics: of probes, and of losses by document."""
        return [self.inner_loss, self.context_gain, self.needle, self.documents]

    @property
    def evaluations(self) -> Path:
        """The folder of evaluations at other contexts and on other texts."""
        return self.path / EVALUATIONS

    def evaluation(self, name: str) -> Path:
        """Return the table of one of these evaluations, in the format of ``metrics``."""
        return self.evaluations / f"{name}.parquet"

    def evaluation_documents(self, name: str) -> Path:
        """Return the losses by document of one of these evaluations; those of earlier versions have none."""
        return self.evaluations / f"{name}-documents.parquet"

    @property
    def tokenizers(self) -> list[Path]:
        """The possible files of the run's tokenizer; runs of earlier versions have none of them."""
        return [self.path / name for name in TOKENIZERS]

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
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
    """The data set. ``digest`` identifies its content, which may differ between data sets of the same name.

    ``tokenizer_sha256`` identifies the tokenizer, which other data sets may share. ``used`` counts the training
    documents and tokens that are in windows of the run's context, and all of them (``ttt.data.usage.Usage``).
    """

    name: str
    digest: str
    vocab_size: int
    tokenizer_sha256: NotRequired[str]
    used: NotRequired[dict[str, int]]


class Judged(TypedDict):
    """The text of an evaluation, besides the number of tokens.

    ``digest`` identifies the corpus, of which ``windows`` chooses windows of ``ctx`` tokens; they have tokens of this
    many ``documents``. The split has ``of_documents`` and ``of_tokens``; older records lack these two.
    """

    digest: str
    ctx: int
    windows: str
    documents: int
    of_documents: NotRequired[int]
    of_tokens: NotRequired[int]


class Evaluation(TypedDict):
    """The result on a split: ``loss`` in nats per token.

    ``per_token_sequences`` counts the windows of the loss by token index. ``perplexity`` is None if it is infinite.
    ``judged`` names the text of ``loss``. ``step`` is the number of optimizer steps of the evaluated weights; a record
    without it means the last step of the run. ``data`` and ``split`` name the text of an evaluation at another context
    or on another text. ``weights`` names weights that were chosen instead of the newest: ``step100``,
    ``mean3-step100``. ``accuracy`` is the share of tokens that were the most likely ones, and ``bits_per_byte`` the
    loss in bits per byte of the judged text, None if that text is empty; older records lack both.
    """

    loss: float
    perplexity: float | None
    tokens: int
    sequences: int
    per_token_sequences: int
    judged: NotRequired[Judged]
    step: NotRequired[int]
    data: NotRequired[str]
    split: NotRequired[str]
    accuracy: NotRequired[float]
    bits_per_byte: NotRequired[float | None]
    weights: NotRequired[str]


class Imported(TypedDict):
    """The origin of weights that ``ttt-import`` has read.

    ``source`` is a path or the id of a model on the hub, at the commit ``revision``; ``layout`` is safetensors, torch
    or flax; ``files`` maps the name of each file to its SHA-256. ``assumed`` has settings that no file had, by the
    released code's names, and ``steps_from`` the origin of ``steps``: the checkpoint, the command line, the recipe of
    the paper's size, or nothing.
    """

    source: str
    revision: str | None
    layout: str
    files: dict[str, str]
    assumed: dict[str, float]
    steps_from: str


class Timing(TypedDict):
    """Start and end in ISO 8601 UTC; ``seconds`` and ``tokens_per_second`` of training."""

    started: str
    ended: str | None
    seconds: float | None
    tokens_per_second: float | None


class Record(TypedDict):
    """``record.json``.

    ``error`` is one line when ``status`` is "failed", "diverged" or "interrupted". ``steps`` and ``tokens`` are those
    done so far, ``steps_planned`` and ``training_flops`` are of the whole schedule, before whose end
    ``trainer.max_steps`` may finish the run (``ttt.results.steps``). ``results`` has one
    evaluation per split, ``evaluations`` those at other contexts and on other texts, by the names of their tables, and
    ``tasks`` the scores on tasks of lm-evaluation-harness, by task: ``piqa``, ``piqa-8k-5shot-step100``.
    ``versions`` is from ``provenance.versions``. ``warnings`` maps a subject, such as "train, layer 1, head 0", to the
    newest warning about it; most records have none. ``identity`` is the part of ``config`` from which ``run_id`` is
    made, see ``ttt.config.identity``. ``label`` describes the run for figures. ``started_in`` is the directory from
    which relative paths in ``config`` start; collected records lack it. ``measurements`` maps the name of a measured
    number to its value; each is a column of ``Results.runs``. ``wandb_id`` is the
    id of the run in Weights & Biases. ``imported`` is the origin of weights that the suite did not train. The file also
    has ``sha256``, the digest of all other keys, which ``read_record`` checks and removes; older files have none.
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
    started_in: NotRequired[str]
    evaluations: NotRequired[dict[str, Evaluation]]
    measurements: NotRequired[dict[str, float]]
    wandb_id: NotRequired[str]
    imported: NotRequired[Imported]
    tasks: NotRequired[dict[str, TaskScores]]


def write_record(path: Path, record: Record) -> None:
    """Replace the file ``path`` with ``record``; other processes see the old record or the new one.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps({**record, "sha256": digest(record)}, indent=2) + "\n")


def write_config(folder: RunFolder, record: Record) -> None:
    """Replace the folder's ``config.yaml`` with the configuration in its record.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(folder.config, yaml.safe_dump(record["config"], sort_keys=False))


def config_agrees(folder: RunFolder, record: Record) -> bool:
    """Return whether the folder's ``config.yaml`` has the configuration in the record; False if it is damaged."""
    try:
        return bool(yaml.safe_load(folder.config.read_text(encoding="utf-8")) == record["config"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False


def read_record(path: Path) -> Record:
    """Return the record in the file ``path``; a record of an earlier version is translated to the present one.

    Unknown keys are kept. A record that does not agree with its digest is named on standard error: a bit may have
    flipped, or the user has edited it.

    Raises:
        UserError: the file is missing, is not a record, lacks a required key, or has a value of another type.
    """
    hint, remedy = f"a run's folder contains {RECORD_FILE}", "restore or remove the run's folder"
    record = read_versioned(path, SCHEMA_VERSION, Record.__required_keys__, "a run's record", hint, remedy, edited=True)
    if not is_intact(record):
        print(f"warning: {path}: is damaged or was edited (its sha256 differs); it is used as it is", file=sys.stderr)
    record.pop("sha256", None)
    for key, kind in KINDS.items():
        if not isinstance(record[key], kind):
            reason = f"{key}={record[key]!r} is not of type {kind.__name__}"
            raise UserError(f"{path}: not a run's record ({reason}); {remedy}")
    return cast(Record, record if record["schema_version"] >= SCHEMA_VERSION else _translated(record))


def _translated(record: dict[str, Any]) -> dict[str, Any]:
    changed = {**with_schedule(record), "schema_version": SCHEMA_VERSION}
    if record["schema_version"] > 1:
        return changed
    if record["status"] == "failed" and DIVERGENCE_IN_VERSION_1.search(record["error"] or ""):
        changed["status"] = "diverged"
    if "warnings" in record:
        lines = (line.partition(": ") for line in record["warnings"])
        changed["warnings"] = {subject: text for subject, _, text in lines}
    return changed


def identity_of(record: Record) -> Resolved:
    """Return the part of the configuration that identifies the run.

    Records without it were written before any key was added, so that all their keys count.
    """
    return record["identity"] if "identity" in record else without_bookkeeping(record["config"])
