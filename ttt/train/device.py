"""What a run computes on: torch's and Lightning's names for the configuration's."""

import platform
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from ttt.backbones.registry import backbones
from ttt.config.schema import TrainerConfig
from ttt.results.record import Device


def choose_precision(name: str, device: torch.device) -> str:
    """Lightning's precision; ``auto`` is mixed on a GPU, in bfloat16 where it has that, and float32 elsewhere."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def choose_strategy(name: str) -> str | Strategy:
    """Lightning's strategy. FSDP wraps every block and gathers whole checkpoints."""
    if name == "single":
        return "auto"
    if name == "ddp":
        return DDPStrategy()
    blocks: set[Any] = {backbone.block for backbone in backbones().values()}
    return FSDPStrategy(auto_wrap_policy=blocks, state_dict_type="full")


def describe_device(config: TrainerConfig, device: torch.device, precision: str) -> Device:
    """The device as the record names it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"name": f"{device.type}: {name}", "count": config.devices * config.nodes, "precision": precision}
