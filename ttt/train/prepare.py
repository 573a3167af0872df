"""From the plan of a run to everything that training needs: the device, the data, the model and the record."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning.pytorch as pl

from ttt.config.little_data import little_data
from ttt.config.plan import tokens_at_once
from ttt.config.schema import TrainConfig
from ttt.data.cache import prepared_digest
from ttt.data.corpus import Corpus, load_corpus
from ttt.data.usage import usage
from ttt.data.windows import Windows, windows_within
from ttt.evaluate.run import Reading
from ttt.layers.compiled import compile_blocks
from ttt.layers.recurrence import check_device
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.count import counted_model
from ttt.models.flops import training_flops
from ttt.models.language_model import LanguageModel
from ttt.models.weights import check_resumable, load_weights
from ttt.results.checkpoints import Checkpoint, require_newest
from ttt.results.metrics import MetricLog
from ttt.results.provenance import git_state, versions
from ttt.results.record import SCHEMA_VERSION, Data, Device, Record
from ttt.results.run_record import RunRecord, now
from ttt.results.same_text import require_data, require_tokenizer
from ttt.train.device import Hardware, choose_hardware
from ttt.train.fitting import check_weights, room_here
from ttt.train.loggers import require_logger
from ttt.train.opening import Opening
from ttt.train.planning import RunPlan
from ttt.train.processes import rank


@dataclass(frozen=True)
class PreparedRun:
    """Everything that training needs, after all checks.

    Attributes:
        plan: the plan of the run.
        record: the run's record, not written yet.
        newest: the checkpoint to resume from; None: start a new run.
        hardware: its device and precision.
        corpus: the data.
        windows: the training windows of ``corpus``.
        model: with its initial weights, or its parent's.
        reading: settings of its evaluation.
        metrics: its metrics up to ``newest``.
    """

    plan: RunPlan
    record: RunRecord
    newest: Checkpoint | None
    hardware: Hardware
    corpus: Corpus
    windows: Windows
    model: LanguageModel
    reading: Reading
    metrics: MetricLog


def prepare(plan: RunPlan, opening: Opening) -> PreparedRun:
    """Prepare data and model; only the data cache is written.

    Raises:
        UserError: the data, the device or the model cannot be used, or the metrics of the run to resume are damaged.
    """
    config, newest = plan.config, opening.newest
    trainer, ctx = config.trainer, config.ctx.length
    require_logger(trainer.logger)
    hardware = choose_hardware(trainer)
    known = prepared_digest(config.data)
    _check_model(config, hardware)
    corpus = load_corpus(config.data, trainer.progress)
    validation = corpus.manifest["splits"]["validation"]
    small = little_data("validation", validation["documents"], validation["tokens"])
    if small and known is None and rank() == 0:
        print(small, file=sys.stderr)
    if opening.record is not None:
        require_data(plan.folder, opening.record, corpus.digest)
    elif plan.parent is not None:
        parent = plan.parent
        require_tokenizer(parent.run, parent.data, corpus.manifest["tokenizer_sha256"], corpus.vocab_size)
        require_newest(parent.checkpoint, parent.run)
    windows = windows_within(corpus.splits["train"], ctx)
    # Refuse a context that is too long for validation now, not at the end of training.
    windows_within(corpus.splits["validation"], ctx)
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model, config.size, config.backbone, config.kernel, corpus.vocab_size)
    if newest is not None:
        check_resumable(model, newest.path)
    elif plan.parent is not None:
        load_weights(model, plan.parent.checkpoint.path)
    if trainer.compile:
        compile_blocks(model.blocks, hardware.device)
    if trainer.activation_checkpointing == "blocks":
        checkpoint_blocks(model)
    data = describe_data(corpus, config.data.name, ctx)
    content = opening.record or new_record(plan, hardware.description, data, model)
    record = RunRecord(plan.folder, content, writes=rank() == 0)
    reading = Reading(ctx, config.data.eval_tokens, hardware.device, tokens_at_once(trainer), trainer.progress)
    metrics = _metrics(record, newest)
    return PreparedRun(plan, record, newest, hardware, corpus, windows, model, reading, metrics)


def _check_model(config: TrainConfig, hardware: Hardware) -> None:
    """Refuse a model that cannot be built or is too large, or a kernel that cannot run here, before data are prepared.

    Raises:
        UserError: of any.
    """
    check_weights(config, counted_model(config).parameters, room_here(config.trainer))
    check_device(config.kernel, hardware.device)


def _metrics(record: RunRecord, newest: Checkpoint | None) -> MetricLog:
    """Return the table of a new run, or that of a resumed run up to its checkpoint.

    Nothing has been written yet: a run with a damaged table keeps its status.
    """
    if newest is None:
        return MetricLog(record.run_id, record.folder.metrics)
    # Evaluations of an earlier step are out of date.
    return MetricLog.resume(record.folder.metrics, record.run_id, newest.step, training_only=True)


def describe_data(corpus: Corpus, name: str, ctx: int) -> Data:
    """Return what a record says about the data ``name`` of a run with a context of ``ctx`` tokens."""
    return {
        "name": name,
        "digest": corpus.digest,
        "vocab_size": corpus.vocab_size,
        "tokenizer_sha256": corpus.manifest["tokenizer_sha256"],
        "used": asdict(usage(corpus.splits["train"], ctx)),
    }


def new_record(plan: RunPlan, device: Device, data: Data, model: LanguageModel) -> Record:
    """Return the record of a new run."""
    config, step_plan = plan.config, plan.step_plan
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "name": plan.folder.path.name,
        "status": "running",
        "error": None,
        "config": plan.plain,
        "identity": plan.identity,
        "overrides": plan.overrides,
        "sweep": plan.sweep,
        "git": git_state(),
        "versions": versions(),
        "device": device,
        "seed": config.seed,
        "parameters": {
            "total": sum(parameter.numel() for parameter in model.parameters()),
            "embedding": model.embedding.weight.numel(),
        },
        "training_flops": training_flops(
            model, config.ctx.length, step_plan.schedule_steps * step_plan.tokens_per_step
        ),
        "tokens_per_step": step_plan.tokens_per_step,
        "steps": 0,
        "steps_planned": step_plan.schedule_steps,
        "tokens": 0,
        "data": data,
        "started_in": str(Path.cwd()),
        "last_checkpoint": None,
        "results": {},
        "timing": {"started": now(), "ended": None, "seconds": None, "tokens_per_second": None},
    }
    if plan.label is not None:
        record["label"] = plan.label
    return record
