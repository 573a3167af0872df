"""The speed of a training: tokens per second, the share of the devices' peak rate, and the peak of the memory."""

from dataclasses import dataclass

import torch

from ttt.config.gpus import peak_flops
from ttt.config.trainer import TrainerConfig
from ttt.models.memory import peak_of
from ttt.results.record import Record
from ttt.train.device import Hardware


@dataclass(frozen=True)
class Speed:
    """What relates a run's tokens per second to its devices.

    Attributes:
        device: of this process.
        flops_per_token: FLOPs of training on one token; recomputed blocks count once.
        peak: FLOP/s of all devices together by their data sheets; None: not known.
    """

    device: torch.device
    flops_per_token: float
    peak: float | None

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the model FLOPs utilization, 0 to 1: the share of the peak that the model's FLOPs take; or None."""
        return None if self.peak is None else tokens_per_second * self.flops_per_token / self.peak

    def values(self, tokens_per_second: float) -> dict[str, float]:
        """Return tokens per second, mfu and peak memory in bytes, as far as they are known; waits for no device."""
        found = {
            "tokens_per_second": tokens_per_second,
            "mfu": self.mfu(tokens_per_second),
            "peak_memory": peak_of(self.device),
        }
        return {name: value for name, value in found.items() if value is not None}


def speed_of(record: Record, hardware: Hardware, trainer: TrainerConfig) -> Speed:
    """Return the speed of a run on its hardware."""
    flops = record["training_flops"] / (record["steps_planned"] * record["tokens_per_step"])
    devices = hardware.description
    peak = peak_flops(devices["name"], hardware.precision, trainer.matmul_precision)
    return Speed(hardware.device, flops, None if peak is None else peak * devices["count"])
