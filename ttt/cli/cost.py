"""What a run costs, for ``ttt-train plan=true`` and ``ttt-sweep plan``: parameters, state, FLOPs, time, disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ttt.analysis.labels import method_label
from ttt.analysis.speeds import earlier_speed, readable_records
from ttt.cli.sweep.tables import duration, quantity
from ttt.config.errors import counted
from ttt.config.schema import TrainConfig
from ttt.config.text_table import wrapped
from ttt.launch.cost import checkpoint_bytes
from ttt.train.planning import RunPlan, plan_run

if TYPE_CHECKING:
    from ttt.results.record import Record


class Speed(NamedTuple):
    """Tokens per second of training on this device, and how that is known."""

    tokens_per_second: float
    source: str


def print_cost(config: TrainConfig, overrides: list[str]) -> None:
    """Print what a run costs; nothing is written and no data is read.

    Raises:
        UserError: as ``plan_run``, or a device that is not present.
    """
    plan = plan_run(config, overrides)
    # A model that cannot be built is an error alone, not below a heading.
    rows = cost_rows(plan)
    print(wrapped(f"{plan.folder.path}: {title(plan.config)}", below="  "))
    for name, text in rows:
        print(wrapped(text, f"  {name:<10}  ", " " * 14))
    print("nothing was trained or written; without plan=true the run starts")


def cost_rows(plan: RunPlan) -> list[tuple[str, str]]:
    """Return what a run costs, as pairs of a name and a text.

    Raises:
        UserError: the model cannot be built, or the device is not present.
    """
    # Importing torch takes seconds; a mistake in the configuration is reported before it.
    from ttt.models.count import counted_model, state_numbers
    from ttt.train.fitting import memory_line, room_here

    config, steps = plan.config, plan.step_plan
    size, tokens = counted_model(config), steps.steps * steps.tokens_per_step
    flops = size.flops(config.ctx.length, tokens)
    first, more = state_numbers(config)
    state = f"{quantity(4 * first)}B a sequence in float32, at any context"
    if more:
        ctx = config.ctx.length
        state = f"{quantity(4 * (first + more * (ctx - 1)))}B a sequence of {ctx:,} tokens in float32, grows with it"
    speed = speed_here(config, readable_records(Path(config.runs)), flops / tokens)
    done = f" of {steps.schedule_steps:,}" if steps.steps < steps.schedule_steps else ""
    return [
        ("parameters", f"{size.parameters:,}, of them {size.embedding:,} in the embedding"),
        ("state", state),
        ("training", f"{steps.steps:,}{done} steps of {steps.tokens_per_step:,} tokens, {quantity(tokens)} in all"),
        ("FLOPs", f"{flops:.3g} ({quantity(flops / tokens)} a token)"),
        ("time", _time(speed, tokens)),
        ("memory", memory_line(config, room_here(config.trainer))),
        ("disk", f"{quantity(checkpoint_bytes(size.parameters))}B of checkpoints"),
    ]


def speed_here(config: TrainConfig, records: list[Record], flops_per_token: float) -> Speed | None:
    """Return the speed of training on this device: of earlier runs of this shape, otherwise measured in a second.

    None: a single sequence would take minutes.

    Raises:
        UserError: the device is not present, or the model cannot be built.
    """
    from ttt.models.device import choose_device, device_name

    device = device_name(choose_device(config.trainer.device, "trainer.device"))
    if earlier := earlier_speed(config, records, device):
        return Speed(earlier.tokens_per_second, f"as {counted(earlier.runs, 'earlier run')} in {config.runs}")
    if sys.stderr.isatty():
        print(f"timing {title(config)} for a moment", file=sys.stderr)
    measured = measured_here(config, flops_per_token)
    return None if measured is None else Speed(measured, f"measured now on {device.partition(':')[0]}")


def measured_here(config: TrainConfig, flops_per_token: float, seconds: float | None = None) -> float | None:
    """Return the measured tokens per second of training with the batch that fits into this device's memory.

    None: a single sequence would take minutes. ``seconds`` is the time of the measurement; None: one second.

    Raises:
        UserError: the device is not present, the model cannot be built, or nothing fits.
    """
    from ttt.train.calibration import measured_speed
    from ttt.train.fitting import fit, room_here, wants_fitting, with_fit

    if wants_fitting(config.trainer):
        config = with_fit(config, fit(config, room_here(config.trainer)))
    return measured_speed(config, flops_per_token, seconds)


def title(config: TrainConfig) -> str:
    """Return the method, size and context of a run: ``TTT-Linear (M), size g1, 2048 tokens``."""
    return (
        f"{method_label(config.model.name, config.backbone.name)}, size {config.size.name}, {config.ctx.length} tokens"
    )


def _time(speed: Speed | None, tokens: int) -> str:
    if speed is None:
        return "a single sequence takes minutes on this device; ttt-sweep plan estimates GPUs"
    rate = f"{quantity(speed.tokens_per_second)} tokens/s"
    return f"about {duration(tokens / speed.tokens_per_second)} at {rate}, {speed.source}"
