"""The estimated cost of a sweep: parameters, tokens, FLOPs, GPU-hours, disk."""

from dataclasses import dataclass

from ttt.config.errors import bad_value
from ttt.launch.plan import Plan, PlannedRun

PEAK_FLOPS = {
    "v100": 125e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
}
"""Peak dense matrix FLOP/s in bfloat16 (V100: float16) from the vendor's data sheets, SXM versions."""

BYTES_A_PARAMETER = 3 * 4
"""Bytes per parameter in a checkpoint: the weight and AdamW's two moments, float32."""

CHECKPOINTS = 2
"""Checkpoints that a run keeps."""


@dataclass(frozen=True)
class Price:
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


def price(plan: Plan, device: str, utilisation: float) -> list[Price]:
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
    # Importing torch takes seconds, and the other commands of a sweep do not need it.
    from ttt.models.count import count

    counted: dict[str, tuple[int, float]] = {}
    prices = []
    for run in plan.runs:
        config, tokens = plan.configs[run.run_id], run.steps * run.tokens_per_step
        # Seed and learning rate change no count; building a model takes time even on the meta device.
        alike = repr((config.model, config.size, config.backbone, config.ctx, config.data.vocab_size, tokens))
        counted[alike] = counted.get(alike) or count(config, tokens)
        prices.append(_price(run, *counted[alike], PEAK_FLOPS[device] * utilisation))
    return prices


def _price(run: PlannedRun, parameters: int, flops: float, rate: float) -> Price:
    disk = CHECKPOINTS * BYTES_A_PARAMETER * parameters
    return Price(run, parameters, run.steps * run.tokens_per_step, flops, flops / rate / 3600, disk)
