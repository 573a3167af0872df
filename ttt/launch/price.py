"""What a sweep costs before it has run: parameters, tokens, operations, GPU-hours, disk."""

from dataclasses import dataclass

from ttt.config.errors import bad_value
from ttt.config.gpus import KNOWN
from ttt.launch.plan import Plan, PlannedRun

PEAK_FLOPS = {gpu.name.lower(): gpu.half_flops for gpu in KNOWN}
"""Dense matrix FLOP/s in bfloat16 (V100: float16)."""

BYTES_A_PARAMETER = 3 * 4
"""Weights and AdamW's two moments, float32."""

CHECKPOINTS = 2
"""How many a run keeps."""


@dataclass(frozen=True)
class Price:
    """One run's.

    Attributes:
        run: what was planned.
        parameters: of the model.
        tokens: that it trains on.
        flops: of training, what is recomputed not counted.
        gpu_hours: at the peak rate times the utilisation that were asked for.
        disk: bytes of its checkpoints.
    """

    run: PlannedRun
    parameters: int
    tokens: int
    flops: float
    gpu_hours: float
    disk: int


def price(plan: Plan, device: str, utilisation: float) -> list[Price]:
    """The price of every run of the plan.

    Args:
        plan: the runs.
        device: a key of ``PEAK_FLOPS``.
        utilisation: share of the device's peak rate that training reaches, above 0 and at most 1.

    Raises:
        UserError: no such device or share, or a model that cannot be built.
    """
    if device not in PEAK_FLOPS:
        raise bad_value("device", device, f"choose one of {', '.join(PEAK_FLOPS)}")
    if not 0 < utilisation <= 1:
        raise bad_value("utilisation", utilisation, "must be above 0 and at most 1")
    # torch takes seconds, and the other commands of a sweep do without it.
    from ttt.models.count import count

    counted: dict[str, tuple[int, float]] = {}
    prices = []
    for run in plan.runs:
        config, tokens = plan.configs[run.run_id], run.steps * run.tokens_per_step
        # Seeds and rates change no count, and building a model takes time even without its memory.
        alike = repr((config.model, config.size, config.backbone, config.ctx, config.data.vocab_size, tokens))
        counted[alike] = counted.get(alike) or count(config, tokens)
        prices.append(_price(run, *counted[alike], PEAK_FLOPS[device] * utilisation))
    return prices


def _price(run: PlannedRun, parameters: int, flops: float, rate: float) -> Price:
    disk = CHECKPOINTS * BYTES_A_PARAMETER * parameters
    return Price(run, parameters, run.steps * run.tokens_per_step, flops, flops / rate / 3600, disk)
