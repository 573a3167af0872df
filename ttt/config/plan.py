"""From a recipe to steps: how many sequences a step has, how they are split over devices, and when a run ends."""

from dataclasses import dataclass

from ttt.config.errors import UserError, bad_value
from ttt.config.schema import TrainConfig


@dataclass(frozen=True)
class StepPlan:
    """The arithmetic of a run.

    Attributes:
        sequences: sequences of the context's length in one optimizer step, over all devices.
        device_batch: sequences that a device holds at once.
        accumulate: device batches of one device in one step.
        schedule_steps: steps of the whole recipe, the length of its schedule.
        steps: steps after which this run ends.
        tokens_per_step: ``sequences`` times the context length.
    """

    sequences: int
    device_batch: int
    accumulate: int
    schedule_steps: int
    steps: int
    tokens_per_step: int


def plan_steps(config: TrainConfig) -> StepPlan:
    """Tokens a step are the same for every context; where one sequence has more, it is a step and steps get fewer.

    Raises:
        UserError: tokens, context, devices and device batch do not divide.
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
    """The asked number of sequences, or the most that divide a device's share and stay within its tokens."""
    asked = config.trainer.device_batch
    if asked is not None:
        if asked < 1 or per_device % asked:
            raise bad_value(
                "trainer.device_batch", asked, f"must divide the {per_device} sequences a device has in a step"
            )
        return asked
    fitting = max(1, config.trainer.device_tokens // config.ctx.length)
    return max(n for n in range(1, min(fitting, per_device) + 1) if per_device % n == 0)


def check(config: TrainConfig) -> StepPlan:
    """Everything that can be refused before anything is loaded or written; returns the plan of the run.

    Raises:
        UserError: a value out of its range, or values that do not fit together.
    """
    for key, value, low in _at_least(config):
        if value < low:
            raise bad_value(key, value, f"must be at least {low}")
    size = config.size
    if size.width % size.heads:
        raise bad_value("size.heads", size.heads, f"must divide size.width={size.width}")
    if (size.width // size.heads) % 2:
        raise bad_value("size.heads", size.heads, f"must leave an even head width, not {size.width // size.heads}")
    config.model.check()
    _check_choices(config)
    _check_recipe(config)
    return plan_steps(config)


def _at_least(config: TrainConfig) -> list[tuple[str, float, float]]:
    """Key, value and least allowed value of what is counted."""
    size, recipe, trainer, data = config.size, config.recipe, config.trainer, config.data
    counted: list[tuple[str, float, float]] = [
        ("size.width", size.width, 1),
        ("size.blocks", size.blocks, 1),
        ("size.heads", size.heads, 1),
        ("size.mlp_hidden", size.mlp_hidden, 1),
        ("ctx.length", config.ctx.length, 1),
        ("data.eval_tokens", data.eval_tokens, 1),
        ("recipe.steps", recipe.steps, 1),
        ("recipe.tokens_per_step", recipe.tokens_per_step, 1),
        ("recipe.clip", recipe.clip, 0),
        ("recipe.parent_share", recipe.parent_share, 0),
        ("trainer.devices", trainer.devices, 1),
        ("trainer.nodes", trainer.nodes, 1),
        ("trainer.threads", trainer.threads, 0),
        ("trainer.device_tokens", trainer.device_tokens, 1),
        ("trainer.checkpoint_every", trainer.checkpoint_every, 0),
        ("trainer.log_every", trainer.log_every, 1),
        ("seed", config.seed, 0),
    ]
    layer = vars(config.model)
    counted += [(f"model.{key}", layer[key], 1) for key in COUNTED_IN_LAYERS if layer.get(key) is not None]
    if config.kernel.checkpoint_group is not None:
        counted.append(("kernel.checkpoint_group", config.kernel.checkpoint_group, 0))
    if trainer.max_steps is not None:
        counted.append(("trainer.max_steps", trainer.max_steps, 1))
    return counted


COUNTED_IN_LAYERS = ("state_size", "expand", "conv_kernel", "dt_rank")

CHOICES: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "strategy": ("single", "ddp", "fsdp"),
    "precision": ("auto", "32-true", "bf16-mixed", "16-mixed"),
    "logger": ("csv", "tensorboard", "wandb"),
}


def _check_choices(config: TrainConfig) -> None:
    for key, allowed in CHOICES.items():
        value = getattr(config.trainer, key)
        if value not in allowed:
            raise bad_value(f"trainer.{key}", value, f"choose one of {', '.join(allowed)}")
    if config.trainer.strategy == "single" and config.trainer.devices * config.trainer.nodes > 1:
        raise bad_value("trainer.strategy", "single", "is for one device; take ddp or fsdp for more")
    if config.ckpt not in (None, "last"):
        raise bad_value("ckpt", config.ckpt, "must be last or null")


def _check_recipe(config: TrainConfig) -> None:
    recipe = config.recipe
    if not 0 <= recipe.warmup < 1:
        raise bad_value("recipe.warmup", recipe.warmup, "must be at least 0 and below 1")
    if len(recipe.betas) != 2 or not all(0 <= beta < 1 for beta in recipe.betas):
        raise bad_value("recipe.betas", list(recipe.betas), "must be two numbers of at least 0 and below 1")
    if not recipe.learning_rate > 0:
        raise bad_value("recipe.learning_rate", recipe.learning_rate, "must be positive")
    if config.overwrite and config.ckpt:
        raise UserError("overwrite=true ckpt=last: start over or go on, not both")
