"""The plan of a run: sequences per step, their split over devices, and the number of steps."""

import hashlib
from dataclasses import dataclass
from typing import Any

from ttt.config.errors import UserError, bad_value
from ttt.config.keys import check_keys
from ttt.config.layers import CONV_KERNEL, HybridConfig
from ttt.config.schema import DataConfig, RecipeConfig, TrainConfig
from ttt.config.trainer import TrainerConfig

SMALLEST_VOCABULARY = 256 + 1
"""Tokens of the smallest tokenizer that is trained: one per byte, and the end of a document."""


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run.

    Attributes:
        sequences: sequences in an optimizer step, over all devices.
        device_batch: sequences in a device's batch.
        accumulate: batches that each device accumulates in a step.
        schedule_steps: steps of the whole recipe, which the schedule spans.
        steps: steps of this run.
        tokens_per_step: ``sequences`` times the context length.
    """

    sequences: int
    device_batch: int
    accumulate: int
    schedule_steps: int
    steps: int
    tokens_per_step: int


def plan_steps(config: TrainConfig) -> StepPlan:
    """Return the plan of a run.

    A step has ``recipe.tokens_per_step`` tokens at every context length. A longer context has one sequence per step
    and device, and proportionally fewer steps. ``trainer.device_tokens=auto`` is planned as if all sequences fit.

    Raises:
        UserError: the tokens of a step do not divide evenly into sequences, devices and batches.
    """
    length, recipe, trainer = config.ctx.length, config.recipe, config.trainer
    workers = trainer.devices * trainer.nodes
    tokens = max(recipe.tokens_per_step, length * workers)
    if tokens % (length * workers):
        raise bad_value(
            "recipe.tokens_per_step", tokens, f"must be a multiple of ctx.length x devices = {length * workers}"
        )
    sequences = tokens // length
    device_batch = _device_batch(config, sequences // workers)
    schedule_steps = max(1, recipe.steps * recipe.tokens_per_step // tokens)
    return StepPlan(
        sequences=sequences,
        device_batch=device_batch,
        accumulate=sequences // workers // device_batch,
        schedule_steps=schedule_steps,
        steps=min(schedule_steps, trainer.max_steps or schedule_steps),
        tokens_per_step=tokens,
    )


def _device_batch(config: TrainConfig, per_device: int) -> int:
    """Return ``trainer.device_batch``, or the largest divisor of a device's share within ``trainer.device_tokens``."""
    batch = config.trainer.device_batch
    if batch is not None:
        if per_device % batch:
            raise bad_value("trainer.device_batch", batch, f"must divide the {per_device} sequences of a device's step")
        return batch
    if config.trainer.device_tokens == "auto":
        return per_device
    return next(
        n for n in device_batches(per_device) if n == 1 or n * config.ctx.length <= tokens_at_once(config.trainer)
    )


def tokens_at_once(trainer: TrainerConfig) -> int:
    """Return ``trainer.device_tokens`` of a run that is planned: ``ttt.train.fitting`` has put a number for auto."""
    assert isinstance(trainer.device_tokens, int)
    return trainer.device_tokens


def device_batches(per_device: int) -> list[int]:
    """Return the batches into which a device can divide its sequences of a step, the largest first."""
    return [n for n in range(per_device, 0, -1) if per_device % n == 0]


def order_seed(config: TrainConfig) -> int:
    """Return the seed of the data's order. A run with a parent must not begin with the parent's first batches."""
    parent = config.parent
    if parent.run_id is None:
        return config.seed
    text = f"{config.seed} {parent.run_id} {parent.steps} {parent.settings}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def check_same_batches(config: TrainConfig, former: TrainConfig) -> None:
    """Check that a resumed run reads the batches with which it began, in which its position in the data is counted.

    Raises:
        UserError: devices or batches are others than in ``former``.
    """
    before, now = plan_steps(former), plan_steps(config)
    if before.tokens_per_step != now.tokens_per_step:
        began = f"the run began with {before.tokens_per_step:,} tokens per step, here they would be"
        raise bad_value("trainer.devices", config.trainer.devices, f"{began} {now.tokens_per_step:,}")
    if (before.device_batch, before.accumulate) != (now.device_batch, now.accumulate):
        began = f"the run began with {before.device_batch} ({before.accumulate} times a step on each device)"
        raise bad_value("trainer.device_batch", now.device_batch, f"{began}, and must resume with that")


def check(config: TrainConfig) -> StepPlan:
    """Check everything that can be checked before anything is loaded or written; return the plan of the run.

    Raises:
        UserError: a value out of its range, or values that contradict each other.
    """
    check_keys(config)
    config.model.check()
    if isinstance(config.model, HybridConfig):
        config.model.check_fits(config.size.blocks)
    if config.model.has_heads:
        check_heads(config.size.width, config.size.heads, "size.")
    _check_convolutions(config)
    _check_recipe(config.recipe)
    check_data(config.data)
    config.data.check_context(config.ctx.length)
    if config.trainer.strategy == "single" and config.trainer.devices * config.trainer.nodes > 1:
        raise bad_value("trainer.strategy", "single", "is for one device; choose ddp or fsdp for more")
    if config.trainer.device != "auto":
        check_device(config.trainer, config.trainer.device)
    if config.overwrite and config.ckpt:
        raise UserError("overwrite=true ckpt=last: start over or resume, not both")
    return plan_steps(config)


def check_heads(width: int, heads: int, prefix: str = "") -> None:
    """Check that heads have a whole and even width; ``prefix`` precedes the keys in the error, such as ``size.``.

    Raises:
        UserError: they have not.
    """
    if width % heads:
        raise bad_value(f"{prefix}heads", heads, f"must divide {prefix}width={width}")
    if (width // heads) % 2:
        raise bad_value(f"{prefix}heads", heads, f"must leave an even head width, not {width // heads}")


def _check_convolutions(config: TrainConfig) -> None:
    """Refuse a convolution that is wider than the context: its first weights would never see a token."""
    model = config.model
    layers: dict[str, Any] = {"model": model}
    if isinstance(model, HybridConfig):
        layers = {f"model.{name}": getattr(model, name, None) for name in model.pattern}
    for name, layer in layers.items():
        kernel = getattr(layer, "conv_kernel", None)
        if kernel is not None and kernel > max(config.ctx.length, CONV_KERNEL):
            raise bad_value(f"{name}.conv_kernel", kernel, f"must be at most ctx.length={config.ctx.length}")


def _check_recipe(recipe: RecipeConfig) -> None:
    if recipe.imported is not None:
        allowed = "the weights were imported, their training cannot go on; start a new run with from=FOLDER"
        raise bad_value("recipe.imported", recipe.imported[:12], allowed)
    if len(recipe.betas) != 2:
        raise bad_value("recipe.betas", list(recipe.betas), "must be two numbers")
    if recipe.final_learning_rate > recipe.learning_rate:
        allowed = f"must be at most the peak, recipe.learning_rate={recipe.learning_rate}"
        raise bad_value("recipe.final_learning_rate", recipe.final_learning_rate, allowed)


def check_data(data: DataConfig) -> None:
    """Check that the values of a corpus agree; ``check_keys`` checks each of them alone.

    Raises:
        UserError: no document, no training text or no tokenizer is possible.
    """
    data.check()
    if data.tokenizer is None and data.trains_tokenizer and data.vocab_size < SMALLEST_VOCABULARY:
        allowed = f"must be at least {SMALLEST_VOCABULARY}: one token per byte and one for the end of a document"
        raise bad_value("data.vocab_size", data.vocab_size, allowed)
    if data.path or data.source in ("local", "pycode", "pyrepo", "tokens"):
        for key, default in (("subset", None), ("split", "train")):
            if getattr(data, key) != default:
                allowed = "chooses from a data set of the hub; without one, choose files by a pattern in data.path"
                raise bad_value(f"data.{key}", getattr(data, key), allowed)
    if data.min_chars > data.max_chars:
        raise bad_value("data.min_chars", data.min_chars, f"must be at most data.max_chars={data.max_chars}")
    if data.validation_fraction + data.test_fraction >= 1:
        allowed = f"with data.validation_fraction={data.validation_fraction} must be below 1, to leave training text"
        raise bad_value("data.test_fraction", data.test_fraction, allowed)


def check_device(trainer: TrainerConfig, kind: str) -> None:
    """Check that strategy and precision are possible on a kind of device.

    Args:
        trainer: the trainer's keys.
        kind: cpu, cuda or mps: ``trainer.device``, or the device that was found for ``auto``.

    Raises:
        UserError: a strategy or precision that only GPUs have, or several devices of a kind that has one.
    """
    if trainer.strategy == "fsdp" and trainer.eval_every:
        raise bad_value("trainer.eval_every", trainer.eval_every, "must be 0 with trainer.strategy=fsdp")
    if trainer.strategy == "fsdp" and kind != "cuda":
        raise bad_value("trainer.strategy", "fsdp", f"needs GPUs (trainer.device=cuda), not {kind}; choose ddp")
    if trainer.precision == "16-mixed" and kind == "cpu":
        raise bad_value("trainer.precision", "16-mixed", "needs a GPU; choose 32-true or bf16-mixed on a CPU")
    if kind == "mps" and trainer.devices * trainer.nodes > 1:
        raise bad_value("trainer.devices", trainer.devices, "must be 1 with mps, which has one device")
