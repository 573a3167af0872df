"""Training of a prepared run with Lightning, then the evaluation of the trained model."""

import logging
import sys
import warnings
from contextlib import suppress

import lightning.pytorch as pl

from ttt.config.errors import DivergedError, UserError
from ttt.data.loader import TrainLoader
from ttt.data.vocabulary import tokenizer_file
from ttt.data.windows import windows_within
from ttt.evaluate.copying import probe_copying
from ttt.evaluate.perplexity import SplitEvaluation
from ttt.evaluate.run import TrainedRun, evaluate_run
from ttt.layers.observing import ttt_layers
from ttt.models.build import build_model
from ttt.models.count import state_numbers
from ttt.models.language_model import LanguageModel
from ttt.models.memory import start_peak
from ttt.models.weights import load_weights
from ttt.results.atomic import write_bytes
from ttt.results.checkpoints import checkpoint_path, checkpoint_step, checkpoints, set_aside
from ttt.results.metrics import MetricLog
from ttt.results.record import STATE_SIZE, write_config
from ttt.results.run_record import RunRecord
from ttt.train.callbacks import Metrics, Progress
from ttt.train.checkpoint import SaveCheckpoints
from ttt.train.device import choose_strategy
from ttt.train.fitting import naming_the_keys
from ttt.train.inner_watch import InnerWatch
from ttt.train.loggers import finish_loggers, keep_wandb_id, make_loggers
from ttt.train.module import TrainingModule
from ttt.train.opening import reset_folder, rewind_folder
from ttt.train.prepare import PreparedRun
from ttt.train.processes import cluster_environment, destroy_group
from ttt.train.recording import recording
from ttt.train.speed import speed_of
from ttt.train.stopping import Interrupted, StopRequest
from ttt.train.validation import Validation

BATCHES_AHEAD = 2
"""Batches that a thread reads into pinned memory while a GPU computes."""


def run(prepared: PreparedRun) -> SplitEvaluation | None:
    """Train, evaluate and write the record; processes other than the first only train, and return None.

    Raises:
        RunError: the loss diverged, the memory was exhausted or a signal stopped the run; the reason is in the record.
        UserError: the folder cannot be written.
    """
    record = prepared.record
    trainer = prepared.plan.config.trainer
    if not record.writes:
        # The first process reports the reason.
        with suppress(Interrupted, DivergedError), naming_the_keys(trainer):
            _train(prepared)
        return None
    _open_folder(prepared)
    with recording(record), naming_the_keys(trainer):
        trained = _trained(prepared, _train(prepared))
        record.measured(STATE_SIZE, _state_size(prepared))
        evaluation = evaluate_run(trained, "validation")
        if trainer.eval_test:
            _evaluate_test(trained)
        if prepared.windows.answers is None:
            _measure_copying(trained)
        return evaluation


def _evaluate_test(trained: TrainedRun) -> None:
    """Evaluate the test split; if no document is long enough, the record gets a warning instead.

    Data without a test split, by ``data.test_fraction=0``, are left without a word.
    """
    documents = trained.documents("test")
    if not len(documents) and not trained.record.content["config"]["data"].get("test_fraction"):
        return
    try:
        windows_within(documents, trained.reading.ctx)
    except UserError as error:
        _warn(trained, "test", error)
    else:
        evaluate_run(trained, "test")


def _state_size(prepared: PreparedRun) -> int:
    """Return the numbers in the state of one sequence after a whole context."""
    config = prepared.plan.config
    first, more = state_numbers(config)
    return first + more * (config.ctx.length - 1)


def _measure_copying(trained: TrainedRun) -> None:
    """Note the losses on repeated text in the record, which is written at the end; a failure is only a warning."""
    try:
        probe_copying(trained, "validation")
    except DivergedError as error:
        _warn(trained, "validation, repeated text", error)


def _warn(trained: TrainedRun, subject: str, error: Exception) -> None:
    """Print a warning and note it in the record."""
    print(f"warning: {subject}: {error}", file=sys.stderr)
    trained.record.warn({subject: str(error)})


def _open_folder(prepared: PreparedRun) -> None:
    plan, newest = prepared.plan, prepared.newest
    if plan.config.trainer.logger == "wandb":
        keep_wandb_id(prepared.record, plan.config.overwrite)
    if newest is None:
        reset_folder(plan.folder)
    else:
        rewind_folder(plan.folder, newest)
    write_config(plan.folder, prepared.record.content)
    # A run's folder is enough to generate text and to export.
    tokenizer = tokenizer_file(prepared.corpus.folder)
    write_bytes(plan.folder.path / tokenizer.name, tokenizer.read_bytes())


def _train(prepared: PreparedRun) -> MetricLog:
    """Train to the last step of the plan, from the newest checkpoint if the run is resumed.

    Raises:
        DivergedError: the loss became infinite or NaN.
        Interrupted: a signal stopped the training; a checkpoint has been saved after the last step.
    """
    plan, record, newest = prepared.plan, prepared.record, prepared.newest
    if newest is not None:
        steps = plan.step_plan.schedule_steps
        record.resume(newest.step, newest.path.name, steps, plan.overrides, plan.sweep, plan.label)
    metrics = prepared.metrics
    stop, device = StopRequest(), prepared.hardware.device
    trainer = _trainer(prepared, metrics, stop)
    loader = TrainLoader(
        prepared.windows,
        batch_size=plan.step_plan.device_batch,
        batches=plan.step_plan.schedule_steps * plan.step_plan.accumulate,
        seed=plan.order_seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        ahead=BATCHES_AHEAD if device.type == "cuda" else 0,
    )
    start_peak(device)
    record.start_clock()
    try:
        module = TrainingModule(prepared.model, plan.config.recipe, plan.step_plan, prepared.windows.answers)
        with stop.listening():
            trainer.fit(module, loader, ckpt_path=newest.path if newest else None, weights_only=True)
    except DivergedError as error:
        raise _with_last_good(error, record) if record.writes else error from None
    finally:
        if record.writes and record.folder.path.exists():
            metrics.write()
            record.trained()
            _measure_speed(prepared)
        if record.writes:
            finish_loggers(trainer.loggers)
        destroy_group()
    return metrics


def _measure_speed(prepared: PreparedRun) -> None:
    """Note the peak memory and the share of the devices' peak rate in the record, as far as they are known."""
    record = prepared.record
    speed = speed_of(record.content, prepared.hardware, prepared.plan.config.trainer)
    measured = speed.values(record.content["timing"]["tokens_per_second"] or 0.0)
    for name in ("peak_memory", "mfu"):
        if name in measured:
            record.measured(name, measured[name])


def _with_last_good(error: DivergedError, record: RunRecord) -> DivergedError:
    """Set aside checkpoints whose weights gave no finite loss, and add the newest good checkpoint to the message."""
    folder = record.folder.checkpoints
    for path in checkpoints(folder):
        if checkpoint_step(path) >= record.steps:
            set_aside(path, "diverged")
    good = next(reversed(checkpoints(folder)), None)
    record.rewound(good.name if good else None)
    remedy = f"the last good checkpoint is {good}" if good else "no checkpoint had been written"
    return DivergedError(f"{error}; {remedy}")


def _trained(prepared: PreparedRun, metrics: MetricLog) -> TrainedRun:
    """Return the trained run, for its evaluation."""
    record, strategy = prepared.record, prepared.plan.config.trainer.strategy
    model = _gathered_model(prepared) if strategy == "fsdp" else prepared.model
    model = model.to(prepared.hardware.device)
    return TrainedRun(record, lambda: prepared.corpus, model, record.steps, prepared.reading, metrics)


def _gathered_model(prepared: PreparedRun) -> LanguageModel:
    """Return a model with the weights of all ranks, from the last checkpoint: FSDP leaves each rank only its shards."""
    config = prepared.plan.config
    model = build_model(config.model, config.size, config.backbone, config.kernel, prepared.corpus.vocab_size)
    load_weights(model, checkpoint_path(prepared.record.folder.checkpoints, prepared.record.steps))
    return model


def _built(prepared: PreparedRun) -> str | None:
    """Return the name of the kernel that the first step may have to compile; None: there is none."""
    name = prepared.plan.config.kernel.name
    if name == "auto":
        name = {"cpu": "cpu", "cuda": "triton"}.get(prepared.hardware.device.type, "dual")
    compiled = (getattr(module, "compiled_kernels", ()) for module in prepared.model.modules())
    return name if any(name in names for names in compiled) else None


def _quiet_lightning() -> None:
    """Silence messages of Lightning that repeat the record, and warnings about its own internals."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")
    # srun is also installed on login nodes, where a run is not a job.
    warnings.filterwarnings("ignore", message="The `srun` command is available")


def _trainer(prepared: PreparedRun, metrics: MetricLog, stop: StopRequest) -> pl.Trainer:
    _quiet_lightning()
    plan, record, newest = prepared.plan, prepared.record, prepared.newest
    trainer = plan.config.trainer
    reported = Metrics(metrics, trainer, speed_of(record.content, prepared.hardware, trainer))
    callbacks: list[pl.Callback] = [stop, reported]
    # All ranks would have to probe a sharded model together, but each reads other text.
    if ttt_layers(prepared.model) and trainer.strategy != "fsdp":
        callbacks.append(InnerWatch(record, prepared.windows[0], trainer.checkpoint_every))
    if trainer.eval_every:
        documents = prepared.corpus.splits["validation"]
        callbacks.append(Validation(documents, prepared.reading, metrics, record, trainer.eval_every))
    saving = SaveCheckpoints(record, reported, trainer.checkpoint_every, trainer.keep_every, stop)
    callbacks.append(saving)
    if trainer.progress:
        callbacks.append(Progress(_built(prepared), trainer.compile, reported))
    return pl.Trainer(
        accelerator=prepared.hardware.device.type,
        strategy=choose_strategy(trainer.strategy, prepared.hardware.device),
        precision=prepared.hardware.precision,  # type: ignore[arg-type]
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        max_steps=plan.step_plan.steps,
        accumulate_grad_batches=plan.step_plan.accumulate,
        callbacks=callbacks,
        logger=make_loggers(trainer, record.content, plan.folder.path, newest.step if newest else 0),
        log_every_n_steps=1,
        plugins=[saving.files, cluster_environment()],
        # In a SLURM job, Lightning resumes from any ``hpc_ckpt_*`` in this folder, which a new run has emptied.
        default_root_dir=plan.folder.checkpoints,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
