"""Fitting a training step into a device's memory: ``trainer.device_tokens=auto``, ``activation_checkpointing=auto``.

The memory is counted (``ttt.models.step_memory``). torch is imported only where something is counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ttt.config.assets import assets
from ttt.config.errors import RunError, UserError
from ttt.config.gpus import GIGA, GPU, USABLE, V100
from ttt.config.identity import context_name
from ttt.config.plan import device_batches, plan_steps
from ttt.config.schema import RecipeConfig, SizeConfig, TrainConfig
from ttt.config.trainer import TrainerConfig
from ttt.results.record import RunFolder, read_record

if TYPE_CHECKING:
    from ttt.models.step_memory import StepMemory

ENOUGH_TOKENS = 32768
"""With both keys on auto, blocks are recomputed only if fewer tokens than this fit at once without it."""

SHORTEST_CONTEXT = 256

Count = Callable[[TrainConfig, int, bool], "StepMemory"]
"""Maps a configuration, the sequences in a batch, and whether blocks are recomputed to the memory of a step."""


@dataclass(frozen=True)
class Room:
    """A device to fit a step into.

    Attributes:
        name: for messages, such as ``cuda`` or ``80 GB``.
        memory: its bytes.
        kind: cpu, cuda or mps.
        precision: of the computation, in Lightning's terms.
    """

    name: str
    memory: float
    kind: str
    precision: str


@dataclass(frozen=True)
class Fit:
    """A way to compute a step that fits.

    Attributes:
        batch: sequences in the device's batch.
        checkpointed: blocks are recomputed.
        memory: of the step.
    """

    batch: int
    checkpointed: bool
    memory: "StepMemory"


def wants_fitting(trainer: TrainerConfig) -> bool:
    """Return whether a key asks for a choice by the memory of the device."""
    return "auto" in (trainer.device_tokens, trainer.activation_checkpointing)


def _chooses_batch(trainer: TrainerConfig) -> bool:
    return trainer.device_tokens == "auto" and trainer.device_batch is None


def fitted(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """Return a configuration with numbers and choices in place of auto, for this machine's device.

    A run that is resumed keeps the batches with which it began, on any device.

    Raises:
        UserError: no setting fits, or the device is not present.
    """
    if not wants_fitting(config.trainer):
        return config
    trainer = config.trainer
    if trainer.device_tokens == "auto" and folder.record.exists() and not config.overwrite:
        former = read_record(folder.record)["config"]["trainer"]["device_tokens"]
        trainer = replace(trainer, device_tokens=former)
    config = replace(config, trainer=trainer)
    return with_fit(config, fit(config, room_here(trainer))) if wants_fitting(trainer) else config


def room_here(trainer: TrainerConfig) -> Room:
    """Return the device of a run on this machine.

    Raises:
        UserError: it is not present.
    """
    from ttt.models.device import choose_device, choose_precision, device_memory

    device = choose_device(trainer.device, "trainer.device")
    return Room(device.type, device_memory(device), device.type, choose_precision(trainer.precision, device))


def room_on(gpu: GPU, trainer: TrainerConfig) -> Room:
    """Return a GPU by its data sheet, which need not be here. ``auto`` is its precision: half, and mixed."""
    half = "16-mixed" if gpu is V100 else "bf16-mixed"
    return Room(gpu.name, gpu.memory, "cuda", half if trainer.precision == "auto" else trainer.precision)


def memory_line(config: TrainConfig, room: Room) -> str:
    """Return the memory of a step on a device in one line, or why it does not fit and the nearest setting that does."""
    count = counting(room)
    found = find_fit(config, room, count)
    if found is None:
        return f"{_too_large(config, room, count)}; {_nearest(config, room, count)}"
    parts = ", ".join(f"{name} {size / GIGA:.2g}" for name, size in vars(found.memory).items())
    how = "blocks recomputed" if found.checkpointed else "blocks not recomputed"
    tokens = f"{found.batch * config.ctx.length:,} tokens at once, {how}"
    total = f"{found.memory.total / GIGA:.3g} of {room.memory / GIGA:.3g} GB of {room.name}"
    return f"{total} in a step, by count ({parts}); {tokens}"


def with_fit(config: TrainConfig, found: Fit) -> TrainConfig:
    """Return a configuration with what was found in place of auto."""
    trainer, tokens = config.trainer, found.batch * config.ctx.length
    if trainer.device_tokens == "auto":
        trainer = replace(trainer, device_tokens=tokens)
    if trainer.activation_checkpointing == "auto":
        trainer = replace(trainer, activation_checkpointing="blocks" if found.checkpointed else "none")
    return replace(config, trainer=trainer)


def fit(config: TrainConfig, room: Room, count: Count | None = None) -> Fit:
    """Return the fastest way to compute a step that fits, by the keys that are on auto.

    Args:
        config: the run.
        room: the device.
        count: counts the memory; None: ``counting(room)``.

    Raises:
        UserError: nothing fits; the line names the nearest setting that does.
    """
    count = counting(room) if count is None else count
    found = find_fit(config, room, count)
    if found is None:
        raise UserError(f"{_too_large(config, room, count)}; {_nearest(config, room, count)}")
    return found


def find_fit(config: TrainConfig, room: Room, count: Count) -> Fit | None:
    """Return the fastest way to compute a step that fits, or None; see ``fit``."""
    key = config.trainer.activation_checkpointing
    plain = None if key == "blocks" else _largest(config, room, count, checkpointed=False)
    whole = plan_steps(config).device_batch
    if key == "none" or (plain is not None and (plain.batch == whole or _is_enough(config, plain))):
        return plain
    return _largest(config, room, count, checkpointed=True) or plain


def _is_enough(config: TrainConfig, found: Fit) -> bool:
    return found.batch * config.ctx.length >= ENOUGH_TOKENS


def _largest(config: TrainConfig, room: Room, count: Count, checkpointed: bool) -> Fit | None:
    """Return the largest batch that fits; memory grows with the batch, so half of the batches are left each time."""
    planned = plan_steps(config).device_batch
    batches = device_batches(planned) if _chooses_batch(config.trainer) else [planned]
    found: Fit | None = None
    while batches:
        middle = len(batches) // 2
        batch = batches[middle]
        memory = count(config, batch, checkpointed)
        if memory.total <= USABLE * room.memory:
            found, batches = Fit(batch, checkpointed, memory), batches[:middle]
        else:
            batches = batches[middle + 1 :]
    return found


def counting(room: Room) -> Count:
    """Return a function that counts steps on a device, each only once."""
    from ttt.models.step_memory import step_memory

    counted: dict[str, StepMemory] = {}

    def count(config: TrainConfig, batch: int, checkpointed: bool) -> "StepMemory":
        parts = (config.model, config.size, config.backbone, config.kernel, config.ctx, config.data.vocab_size)
        shared = (config.trainer.strategy, config.trainer.devices, config.trainer.nodes)
        key = repr((parts, shared, config.recipe.optimizer, batch, checkpointed))
        if key not in counted:
            states = optimizer_states(config.recipe)
            counted[key] = step_memory(config, batch, room.kind, room.precision, checkpointed, states)
        return counted[key]

    return count


def optimizer_states(recipe: RecipeConfig) -> float:
    """Return the numbers per parameter that the recipe's optimizer keeps: 2 for AdamW."""
    import torch

    from ttt.train.optimizers.registry import build_optimizer

    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = build_optimizer([{"params": [parameter], "weight_decay": 0.0}], recipe)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(value.numel() for value in kept if value.numel() > 1) / parameter.numel()


def check_weights(config: TrainConfig, parameters: int, room: Room) -> None:
    """Refuse a model that fits under no setting: what its parameters alone need is more than the device has.

    Args:
        config: the run.
        parameters: their number.
        room: the device.

    Raises:
        UserError: it does not fit; the line names the nearest setting that does.
    """
    trainer = config.trainer
    shards = trainer.devices * trainer.nodes if trainer.strategy == "fsdp" else 1
    # Weights, gradients and the optimizer's state in float32.
    if 4 * (2 + optimizer_states(config.recipe)) * parameters / shards <= room.memory:
        return
    count = counting(room)
    raise UserError(f"{_too_large(config, room, count)}; {_nearest(config, room, count)}")


def smallest_step(config: TrainConfig, count: Count) -> "StepMemory":
    """Return the memory of the smallest step that the keys allow."""
    return count(config, _smallest_batch(config), config.trainer.activation_checkpointing != "none")


def _smallest_batch(config: TrainConfig) -> int:
    return 1 if _chooses_batch(config.trainer) else plan_steps(config).device_batch


def _too_large(config: TrainConfig, room: Room, count: Count) -> str:
    """Return what does not fit: the smallest step that the keys allow."""
    batch, needed = _smallest_batch(config), smallest_step(config, count).total
    how = "without" if config.trainer.activation_checkpointing == "none" else "with"
    sequences = "a sequence" if batch == 1 else f"{batch} sequences"
    step = f"{sequences} of {config.ctx.length:,} tokens {how} trainer.activation_checkpointing=blocks"
    available = f"{room.name} has {room.memory / GIGA:.3g} GB, of which a tenth stays free"
    return f"size={config.size.name}: {step} takes {needed / GIGA:.3g} GB by count, and {available}"


def _nearest(config: TrainConfig, room: Room, count: Count) -> str:
    """Return the nearest setting that fits: recomputed blocks, a smaller batch, a shorter context, a smaller size."""
    blocks = replace(config, trainer=replace(config.trainer, activation_checkpointing="blocks"))
    for nearer, words in _nearer(config, blocks):
        if find_fit(nearer, room, count) is not None:
            return f"{words} fits"
    return "no size of conf/size fits; choose a device with more memory"


def _nearer(config: TrainConfig, blocks: TrainConfig) -> Iterator[tuple[TrainConfig, str]]:
    """Yield configurations that need less and less memory, and the overrides that lead to them."""
    recompute = "" if config.trainer.activation_checkpointing != "none" else "trainer.activation_checkpointing=blocks "
    if recompute:
        yield blocks, recompute.strip()
    one = replace(blocks, trainer=replace(blocks.trainer, device_tokens="auto", device_batch=None))
    batch = "" if _chooses_batch(config.trainer) else "trainer.device_tokens=auto "
    if batch:
        yield one, f"{recompute}{batch}".strip()
    length = config.ctx.length // 2
    while length >= SHORTEST_CONTEXT:
        yield replace(one, ctx=replace(config.ctx, length=length)), f"{recompute}{batch}ctx={context_name(length)}"
        length //= 2
    for size in _smaller_sizes(config.size):
        yield replace(one, size=size), f"{recompute}{batch}size={size.name}"


def _smaller_sizes(size: SizeConfig) -> list[SizeConfig]:
    """Return the sizes of ``conf/size`` with less width and depth than ``size``, the largest first."""
    files = sorted(Path(assets(), "conf", "size").glob("*.yaml"))
    known = [SizeConfig(**yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files]
    smaller = [one for one in known if one.width * one.width * one.blocks < size.width * size.width * size.blocks]
    return sorted(smaller, key=lambda one: one.width * one.width * one.blocks, reverse=True)


@contextmanager
def naming_the_keys(trainer: TrainerConfig) -> Iterator[None]:
    """Name the keys that help if the device's memory is exhausted in the context.

    Raises:
        RunError: it is exhausted.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU, torch raises a RuntimeError of its allocator.
        exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not exhausted:
            raise
        keys = (
            f"trainer.activation_checkpointing=blocks (now {trainer.activation_checkpointing})",
            f"a smaller trainer.device_tokens (now {trainer.device_tokens}; auto counts what fits)",
            f"or trainer.strategy=fsdp on several GPUs (now {trainer.strategy})",
        )
        raise RunError(f"out of memory: take {', '.join(keys)}") from error
