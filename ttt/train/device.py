"""Device, precision and strategy of a run in the terms of torch and Lightning."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from ttt.backbones.registry import backbones
from ttt.config.errors import bad_value, counted
from ttt.config.plan import check_device
from ttt.config.trainer import TrainerConfig
from ttt.models.device import choose_device, choose_precision, device_name
from ttt.models.memory import keep_freed_memory
from ttt.results.record import Device
from ttt.train.processes import process_group_backend


@dataclass(frozen=True)
class Hardware:
    """The hardware of a run.

    Attributes:
        device: the device of this process.
        precision: Lightning's name of the precision.
        description: the record's description of the devices.
    """

    device: torch.device
    precision: str
    description: Device


def choose_hardware(trainer: TrainerConfig) -> Hardware:
    """Return the device and precision of a run, and set torch's threads and precision of float32 products.

    Raises:
        UserError: the device is not present, there are fewer than ``trainer.devices``, or strategy or precision are
            not possible on it.
    """
    device = choose_device(trainer.device, "trainer.device")
    precision = choose_precision(trainer.precision, device)
    check_device(trainer, device.type)
    if device.type == "cuda" and trainer.devices > (present := torch.cuda.device_count()):
        raise bad_value("trainer.devices", trainer.devices, f"torch finds {counted(present, 'GPU')} on this machine")
    if device.type == "cpu":
        keep_freed_memory()
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    torch.set_float32_matmul_precision(trainer.matmul_precision)
    count = trainer.devices * trainer.nodes
    return Hardware(device, precision, {"name": device_name(device), "count": count, "precision": precision})


def choose_strategy(name: str, device: torch.device) -> str | Strategy:
    """Return Lightning's strategy on a kind of device. FSDP wraps every block and gathers full checkpoints."""
    if name == "single":
        return "auto"
    # With gloo, processes with GPUs can agree on a number without waiting for their GPUs.
    backend = process_group_backend(device.type == "cuda")
    if name == "ddp":
        return DDPStrategy(process_group_backend=backend)
    blocks: set[Any] = {backbone.block for backbone in backbones().values()}
    return FSDPStrategy(auto_wrap_policy=blocks, state_dict_type="full", process_group_backend=backend)
