"""A run from its configuration to its record."""

import logging
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
import yaml

from ttt.config.identity import run_id
from ttt.config.plain import to_plain
from ttt.config.plan import StepPlan
from ttt.config.schema import TrainConfig
from ttt.data.corpus import Corpus, load_corpus
from ttt.data.loader import TrainLoader
from ttt.data.windows import Windows, windows_at_start, windows_within
from ttt.evaluate.perplexity import SplitEvaluation
from ttt.evaluate.run import evaluate_run, refuse_other_data
from ttt.layers.observing import ttt_layers
from ttt.models.build import build_model
from ttt.models.device import choose_device
from ttt.models.flops import training_flops
from ttt.models.language_model import LanguageModel
from ttt.models.memory import keep_freed_memory
from ttt.results.atomic import write_text
from ttt.results.checkpoints import Checkpoint, checkpoint_step, checkpoints, newest_whole, set_aside
from ttt.results.metrics import MetricLog
from ttt.results.provenance import git_state, versions
from ttt.results.record import SCHEMA_VERSION, Record, RunFolder, read_record
from ttt.train.callbacks import Metrics, Progress
from ttt.train.checkpoint import Keep
from ttt.train.device import choose_precision, choose_strategy, describe_device
from ttt.train.inner_watch import InnerWatch
from ttt.train.loggers import make_loggers, require_logger
from ttt.train.module import DivergedError, TrainingModule
from ttt.train.opening import clear, reopen
from ttt.train.parent import load_parent, order_seed
from ttt.train.processes import cluster_environment, leave, rank
from ttt.train.recording import now, recording
from ttt.train.stopping import Interrupted, StopRequest


@dataclass(frozen=True)
class Setting:
    """What a run is made of, once everything that can be refused has been looked at.

    Attributes:
        newest: the checkpoint in ``folder`` to go on from; None: start.
    """

    config: TrainConfig
    plan: StepPlan
    folder: RunFolder
    newest: Checkpoint | None
    device: torch.device
    precision: str
    corpus: Corpus
    windows: Windows
    model: LanguageModel


def set_up(config: TrainConfig, plan: StepPlan, folder: RunFolder, resume: bool) -> Setting:
    """Prepares data and model; writes nothing but the data cache.

    Raises:
        UserError: the data, the device or the model cannot be as asked, or no checkpoint to go on from is whole.
    """
    newest = newest_whole(folder.checkpoints) if resume else None
    device = choose_device(config.trainer.device, "trainer.device")
    require_logger(config.trainer.logger)
    if device.type == "cpu":
        keep_freed_memory()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    corpus = load_corpus(config.data, config.trainer.progress)
    if newest is not None:
        refuse_other_data(folder.path, read_record(folder.record), corpus)
    windows = windows_within(corpus.splits["train"], config.ctx.length)
    # A context that is too long for validation is refused now, not at the end of training.
    windows_at_start(corpus.splits["validation"], config.ctx.length)
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model, config.size, config.backbone, config.kernel, corpus.vocab_size)
    if config.parent.run is not None and newest is None:
        load_parent(config, corpus, model)
    precision = choose_precision(config.trainer.precision, device)
    return Setting(config, plan, folder, newest, device, precision, corpus, windows, model)


def run(setting: Setting, overrides: list[str], sweep: str | None = None) -> SplitEvaluation | None:
    """Trains, evaluates, and keeps the record; processes of rank 1 and up only train and return None.

    Raises:
        RunError: the loss diverged or a signal stopped the run; the record says so.
        UserError: the folder cannot be written.
    """
    folder, config = setting.folder, setting.config
    record = read_record(folder.record) if setting.newest else _new_record(setting, overrides, sweep)
    if rank() > 0:
        # The first process tells what ended the run, and where it goes on.
        with suppress(Interrupted, DivergedError):
            _fit(setting, record)
        return None
    if setting.newest:
        reopen(folder, setting.newest)
        record["status"], record["error"], record["last_checkpoint"] = "running", None, setting.newest.path.name
        record["overrides"], record["steps_planned"], record["results"] = overrides, setting.plan.steps, {}
        record["sweep"], record["steps"] = sweep or record["sweep"], setting.newest.step
    else:
        clear(folder)
        write_text(folder.config, yaml.safe_dump(to_plain(config), sort_keys=False))
    with recording(folder, record):
        _fit(setting, record)
        evaluation = evaluate_run(folder, "validation", setting.device, show_progress=config.trainer.progress)
        record["results"] = read_record(folder.record)["results"]
    return evaluation


def _fit(setting: Setting, record: Record) -> None:
    """Trains to the last step of the plan, from the newest checkpoint if the run is resumed.

    Raises:
        DivergedError: the loss became infinite or not a number.
        Interrupted: a signal asked for an end; a checkpoint holds all that was done.
    """
    config, plan, folder, newest = setting.config, setting.plan, setting.folder, setting.newest
    first_step = newest.step if newest else 0
    log = _metric_log(folder, record["run_id"], first_step)
    stop = StopRequest()
    trainer = _trainer(setting, record, log, stop)
    loader = TrainLoader(
        setting.windows,
        batch_size=plan.device_batch,
        batches=plan.schedule_steps * plan.accumulate,
        seed=order_seed(config),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    started = time.perf_counter()
    try:
        module = TrainingModule(setting.model, config.recipe, plan)
        with stop.listening():
            trainer.fit(module, loader, ckpt_path=newest.path if newest else None, weights_only=True)
    except DivergedError as error:
        raise _with_last_good(error, folder, record) if trainer.is_global_zero else error from None
    finally:
        if trainer.is_global_zero and folder.path.exists():
            log.write()
            if record["steps"] > first_step:
                tokens = (record["steps"] - first_step) * plan.tokens_per_step
                record["timing"]["tokens_per_second"] = round(tokens / (time.perf_counter() - started), 1)
        leave()


def _with_last_good(error: DivergedError, folder: RunFolder, record: Record) -> DivergedError:
    """Adds to the message the newest checkpoint whose weights still gave a finite loss; later ones are set aside."""
    for path in checkpoints(folder.checkpoints):
        if checkpoint_step(path) >= error.step:
            set_aside(path, "diverged")
    good = next(reversed(checkpoints(folder.checkpoints)), None)
    record["last_checkpoint"] = good.name if good else None
    where = f"the last good checkpoint is {good}" if good else "no checkpoint had been written"
    return DivergedError(f"{error}; {where}", error.step)


def _metric_log(folder: RunFolder, run: str, first_step: int) -> MetricLog:
    if not first_step:
        return MetricLog(run, folder.metrics)
    # An evaluation of a run that goes on is out of date.
    return MetricLog.resume(folder.metrics, run, first_step, splits=("train",))


def _quiet_lightning() -> None:
    """What Lightning tells at start, the record has; its warnings here are about its own insides."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")
    # On a machine that can submit jobs not everything is one.
    warnings.filterwarnings("ignore", message="The `srun` command is available")


def _trainer(setting: Setting, record: Record, log: MetricLog, stop: StopRequest) -> pl.Trainer:
    _quiet_lightning()
    trainer, plan = setting.config.trainer, setting.plan
    callbacks: list[pl.Callback] = [stop, Metrics(log, trainer.log_every)]
    # A sharded model is only read by all ranks together, and each with its own text.
    if ttt_layers(setting.model) and trainer.strategy != "fsdp":
        callbacks.append(InnerWatch(record, setting.windows[0], trainer.checkpoint_every))
    keep = Keep(setting.folder, record, log, trainer.checkpoint_every, stop)
    callbacks.append(keep)
    if trainer.progress:
        callbacks.append(Progress())
    first_step = setting.newest.step if setting.newest else 0
    settings: dict[str, Any] = {"strategy": choose_strategy(trainer.strategy), "precision": setting.precision}
    return pl.Trainer(
        accelerator=setting.device.type,
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        max_steps=plan.steps,
        accumulate_grad_batches=plan.accumulate,
        callbacks=callbacks,
        logger=make_loggers(trainer.logger, setting.folder.path, run_id(setting.config), first_step),
        log_every_n_steps=1,
        plugins=[keep.files, cluster_environment()],
        # In a job of SLURM, Lightning goes on from any ``hpc_ckpt_*`` that it finds there, unasked; a run that starts
        # has just emptied this folder.
        default_root_dir=setting.folder.checkpoints,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )


def _new_record(setting: Setting, overrides: list[str], sweep: str | None) -> Record:
    config, plan, model = setting.config, setting.plan, setting.model
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id(config),
        "name": setting.folder.path.name,
        "status": "running",
        "error": None,
        "config": to_plain(config),
        "overrides": overrides,
        "sweep": sweep,
        "git": git_state(),
        "versions": versions(),
        "device": describe_device(config.trainer, setting.device, setting.precision),
        "seed": config.seed,
        "parameters": {
            "total": sum(parameter.numel() for parameter in model.parameters()),
            "embedding": model.embedding.weight.numel(),
        },
        "training_flops": training_flops(model, config.ctx.length, plan.steps * plan.tokens_per_step),
        "tokens_per_step": plan.tokens_per_step,
        "steps": 0,
        "steps_planned": plan.steps,
        "tokens": 0,
        "data": {
            "name": config.data.name,
            "digest": setting.corpus.digest,
            "vocab_size": setting.corpus.vocab_size,
            "tokenizer_sha256": setting.corpus.manifest["tokenizer_sha256"],
        },
        "last_checkpoint": None,
        "results": {},
        "timing": {"started": now(), "ended": None, "seconds": None, "tokens_per_second": None},
    }
