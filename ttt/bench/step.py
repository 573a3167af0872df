"""Where the time of a training step goes, for any configuration: data, forward and backward pass, optimizer, by part.

Shapes: B sequences of a device's batch, S = T + 1 tokens.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ttt.bench.step_parts import OTHER, PARTS, Phase, Seconds, phase, ranges, seconds_of
from ttt.config.errors import bad_value, counted
from ttt.config.schema import TrainConfig
from ttt.config.text_table import Column, print_headings, print_line, wrapped
from ttt.data.corpus import load_corpus
from ttt.data.loader import TrainLoader
from ttt.data.windows import windows_within
from ttt.layers.compiled import compile_blocks
from ttt.models.build import build_model
from ttt.models.checkpointing import checkpoint_blocks
from ttt.models.language_model import LanguageModel, mean_loss
from ttt.train.device import Hardware, choose_hardware
from ttt.train.optim import clip_gradients, decayed_parameters, make_optimizer
from ttt.train.planning import RunPlan, plan_run

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

WARM_UP = 2
"""Untimed steps, in which kernels are compiled and memory is allocated."""

NOTES = """\
ms: median of the steps without the profiler, divided as in the profiled ones.
inner loop: the kernel of TTT layers. attention or scan: operators of other
  layers that are neither linear maps nor convolutions. norms and gates: also
  RoPE, rates of the inner loop, residual sums; with trainer.compile=true all
  fused operators. other: embedding, loss, sums of gradients, and Python between
  the operators; on a GPU also the time in which it computes nothing."""


@dataclass(frozen=True)
class Line:
    """A line of the table: a part of the step, and its seconds by phase."""

    part: str
    seconds: dict[Phase, float]
    share: float

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


def bench_step(config: TrainConfig, rounds: int) -> None:
    """Time the steps of a run, which is not written, and print the parts of one.

    Args:
        config: the run, on one device.
        rounds: timed steps; as many are profiled.

    Raises:
        UserError: as ``ttt-train``, or several devices.
    """
    if config.trainer.strategy != "single":
        raise bad_value("trainer.strategy", config.trainer.strategy, "a step is timed on one device; choose single")
    plan = plan_run(config, [])
    hardware = choose_hardware(plan.config.trainer)
    device = hardware.device
    corpus = load_corpus(config.data, config.trainer.progress)
    torch.manual_seed(config.seed)
    model = _model(plan.config, corpus.vocab_size, device)
    steps = WARM_UP + 2 * rounds
    windows = windows_within(corpus.splits["train"], config.ctx.length)
    batches = iter(
        TrainLoader(windows, plan.step_plan.device_batch, steps * plan.step_plan.accumulate, plan.order_seed)
    )
    step = _step(plan, model, batches, HALF.get(hardware.precision), device)
    for _ in range(WARM_UP):
        step()
    whole = median(_seconds(step, device) for _ in range(rounds))
    with ranges(model):
        profiled = [seconds_of(step, device) for _ in range(rounds)]
    print(wrapped(_title(plan, hardware)), end="\n\n")
    _print(scaled(profiled, whole, idles=device.type == "cuda"))


def _model(config: TrainConfig, vocab_size: int, device: torch.device) -> LanguageModel:
    model = build_model(config.model, config.size, config.backbone, config.kernel, vocab_size).to(device)
    if config.trainer.compile:
        compile_blocks(model.blocks, device)
    if config.trainer.activation_checkpointing == "blocks":
        checkpoint_blocks(model)
    return model


def _step(
    plan: RunPlan, model: LanguageModel, batches: Iterator[Tensor], half: torch.dtype | None, device: torch.device
) -> Callable[[], None]:
    """Return a function that makes the next optimizer step, as training does."""
    recipe, accumulate = plan.config.recipe, plan.step_plan.accumulate
    optimizer = make_optimizer(model, decayed_parameters(model, recipe.decay), recipe)

    def step() -> None:
        for _ in range(accumulate):
            with phase("data"):
                ids_BS = next(batches).to(device)
            with phase("forward"), torch.autocast(device.type, half) if half else nullcontext():
                loss = mean_loss(model, ids_BS) / accumulate
            with phase("backward"):
                loss.backward()
        with phase("optimizer"):
            clip_gradients(model, recipe.clip)
            optimizer.step()
            optimizer.zero_grad()

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def scaled(profiled: Sequence[Seconds], whole: float, idles: bool) -> list[Line]:
    """Return the lines of a step that takes ``whole`` seconds without the profiler.

    Args:
        profiled: the seconds of each profiled step, by part and phase.
        whole: seconds.
        idles: the device computes behind the host, so that what is left of ``whole`` is time in which it does nothing;
            otherwise the profiler's own time is spread over all parts.
    """
    summed = {key: sum(one.get(key, 0.0) for one in profiled) for one in profiled for key in one}
    total = sum(summed.values())
    factor = 1 / len(profiled) if idles else whole / total
    seconds = {key: factor * value for key, value in summed.items()}
    if idles:
        seconds[OTHER, "idle"] = max(0.0, whole - factor * total)
    lines = []
    for part in PARTS:
        of_part = {phase: value for (name, phase), value in seconds.items() if name == part}
        lines.append(Line(part, of_part, sum(of_part.values()) / sum(seconds.values())))
    return lines


def _title(plan: RunPlan, hardware: Hardware) -> str:
    config, step = plan.config, plan.step_plan
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if hardware.device.type == "cpu" else ""
    return (
        f"model={config.model.name} backbone={config.backbone.name} size={config.size.name}, "
        f"{config.ctx.length:,} tokens, {step.tokens_per_step:,} in a step ({step.accumulate} times "
        f"{counted(step.device_batch, 'sequence')}); {hardware.description['name']}{threads}, {hardware.precision}, "
        f"torch {torch.__version__}"
    )


def _print(lines: list[Line]) -> None:
    print_headings(COLUMNS)
    shown = [line for line in lines if line.total > 0]
    phases = {phase: sum(line.seconds.get(phase, 0.0) for line in lines) for line in lines for phase in line.seconds}
    for line in [*shown, Line("step", phases, 1.0)]:
        print_line(COLUMNS, line)
    print(f"\n{NOTES}")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f}" if seconds else ""


COLUMNS: tuple[Column[Line], ...] = (
    Column("part", 18, lambda line: line.part, left=True),
    Column("forward ms", 12, lambda line: _ms(line.seconds.get("forward", 0.0))),
    Column("backward ms", 12, lambda line: _ms(line.seconds.get("backward", 0.0))),
    Column("step ms", 12, lambda line: _ms(line.total)),
    Column("share %", 8, lambda line: f"{100 * line.share:.1f}"),
)
