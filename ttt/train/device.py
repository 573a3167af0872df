"""Device, precision and strategy of a run in the terms of torch and Lightning."""

import platform
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy

from ttt.backbones.registry import backbones
from ttt.config.schema import TrainerConfig
from ttt.results.record import Device


def choose_precision(name: str, device: torch.device) -> str:
    """Return Lightning's precision; ``auto``: mixed on a GPU, with bfloat16 if supported, and float32 elsewhere."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "32-true"
    # GPUs before Ampere emulate bfloat16, many times slower than they compute in float16.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def choose_strategy(name: str) -> str | Strategy:
    """Return Lightning's strategy. FSDP wraps every block and gathers full checkpoints."""
    if name == "single":
        return "auto"
    if name == "ddp":
        return DDPStrategy()
    blocks: set[Any] = {backbone.block for backbone in backbones().values()}
    return FSDPStrategy(auto_wrap_policy=blocks, state_dict_type="full")


def describe_device(config: TrainerConfig, device: torch.device, precision: str) -> Device:
    """Return the record's description of the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"name": f"{device.type}: {name}", "count": config.devices * config.nodes, "precision": precision}
