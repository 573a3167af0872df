"""The estimated cost of a sweep: parameters, tokens, FLOPs, GPU-hours, disk."""

from dataclasses import dataclass

from ttt.config.errors import bad_value
from ttt.config.gpus import GIGA, KNOWN
from ttt.launch.counts import model_counts
from ttt.launch.plan import Plan, PlannedRun
from ttt.train.fitting import Count, counting, find_fit, room_on, smallest_step

PEAK_FLOPS = {gpu.key: gpu.half_flops for gpu in KNOWN}
"""Peak dense matrix FLOP/s in bfloat16 (V100: float16)."""

BYTES_PER_PARAMETER = 3 * 4
"""Bytes per parameter in a checkpoint: the weight and AdamW's two moments, float32."""

CHECKPOINTS = 2
"""Checkpoints that a run keeps."""


@dataclass(frozen=True)
class RunCost:
    """The estimated cost of one run.

    Attributes:
        run: the planned run.
        parameters: parameters of the model.
        tokens: training tokens.
        flops: training FLOPs, without recomputation.
        gpu_hours: at the device's peak rate times the utilisation.
        disk: size of its checkpoints, bytes.
    """

    run: PlannedRun
    parameters: int
    tokens: int
    flops: float
    gpu_hours: float
    disk: int


def run_costs(plan: Plan, device: str, utilisation: float) -> list[RunCost]:
    """Return the estimated cost of every run of the plan.

    Args:
        plan: the runs.
        device: a key of ``PEAK_FLOPS``.
        utilisation: fraction of the device's peak rate that training reaches, above 0 and at most 1.

    Raises:
        UserError: an unknown device, a utilisation out of range, or a model that cannot be built.
    """
    if device not in PEAK_FLOPS:
        raise bad_value("device", device, f"choose one of {', '.join(PEAK_FLOPS)}")
    if not 0 < utilisation <= 1:
        raise bad_value("utilisation", utilisation, "must be above 0 and at most 1")
    costs = []
    for run, count in zip(plan.runs, model_counts([plan.configs[run.run_id] for run in plan.runs]), strict=True):
        tokens = run.steps * run.tokens_per_step
        flops = count.flops * tokens / plan.configs[run.run_id].ctx.length
        gpu_hours = flops / (PEAK_FLOPS[device] * utilisation) / 3600
        costs.append(RunCost(run, count.parameters, tokens, flops, gpu_hours, checkpoint_bytes(count.parameters)))
    return costs


def step_memories(plan: Plan, device: str) -> dict[str, str]:
    """Return the memory of a step of every run on a GPU, by run_id: ``25GB``, or ``> 80GB: 146GB`` if it does not fit.

    It is counted at the run's ``trainer.device_tokens`` and ``trainer.activation_checkpointing``; ``5.1GB with blocks``
    means that blocks are recomputed.

    Args:
        plan: the runs.
        device: a key of ``PEAK_FLOPS``.

    Raises:
        UserError: a model that cannot be built.
    """
    gpu = next(gpu for gpu in KNOWN if gpu.key == device)
    counts: dict[str, Count] = {}
    found = {}
    for run in plan.runs:
        config = plan.configs[run.run_id]
        room = room_on(gpu, config.trainer)
        # One function for all runs: it counts equal steps once.
        count = counts.setdefault(room.precision, counting(room))
        fit = find_fit(config, room, count)
        if fit is None:
            needed = smallest_step(config, count).total
            found[run.run_id] = f"> {gpu.memory / GIGA:.0f}GB: {needed / GIGA:.3g}GB"
        else:
            found[run.run_id] = f"{fit.memory.total / GIGA:.3g}GB" + (" with blocks" if fit.checkpointed else "")
    return found


def checkpoint_bytes(parameters: int) -> int:
    """Return the bytes of the checkpoints that a run keeps."""
    return CHECKPOINTS * BYTES_PER_PARAMETER * parameters
