"""The plan of a run: sequences per step, their split over devices, and the number of steps."""

from dataclasses import dataclass

from ttt.config.errors import UserError, bad_value
from ttt.config.keys import check_keys
from ttt.config.schema import TrainConfig


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
    and device, and proportionally fewer steps.

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
    fitting = max(1, config.trainer.device_tokens // config.ctx.length)
    return max(n for n in range(1, min(fitting, per_device) + 1) if per_device % n == 0)


def check(config: TrainConfig) -> StepPlan:
    """Check everything that can be checked before anything is loaded or written; return the plan of the run.

    Raises:
        UserError: a value out of its range, or values that contradict each other.
    """
    check_keys(config)
    config.model.check()
    _check_heads(config)
    _check_recipe(config)
    if config.trainer.strategy == "single" and config.trainer.devices * config.trainer.nodes > 1:
        raise bad_value("trainer.strategy", "single", "is for one device; choose ddp or fsdp for more")
    if config.overwrite and config.ckpt:
        raise UserError("overwrite=true ckpt=last: start over or resume, not both")
    return plan_steps(config)


def _check_heads(config: TrainConfig) -> None:
    size = config.size
    if size.width % size.heads:
        raise bad_value("size.heads", size.heads, f"must divide size.width={size.width}")
    if (size.width // size.heads) % 2:
        raise bad_value("size.heads", size.heads, f"must leave an even head width, not {size.width // size.heads}")


def _check_recipe(config: TrainConfig) -> None:
    if len(config.recipe.betas) != 2:
        raise bad_value("recipe.betas", list(config.recipe.betas), "must be two numbers")
