"""The choice of the torch device, its memory, and the precision on it."""

import os
import platform
from pathlib import Path

import torch

from ttt.config.errors import bad_value


def choose_device(name: str, key: str = "device", kinds: tuple[str, ...] = ("cuda", "mps", "cpu")) -> torch.device:
    """Return the torch device of ``key=name``; ``auto`` takes the first of ``kinds`` that is present.

    Raises:
        UserError: the device is not present.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in kinds if present[kind])
    if name not in kinds:
        raise bad_value(key, name, f"choose one of auto, {', '.join(sorted(kinds))}")
    if not present[name]:
        raise bad_value(key, name, "torch finds no such device here; cpu always runs")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """Return Lightning's precision; ``auto``: mixed on a GPU, with bfloat16 if supported, and float32 elsewhere."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "32-true"
    # GPUs before Ampere emulate bfloat16, many times slower than they compute in float16.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def device_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory; for a CPU, at most the limit of this process's group (a container's)."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTROL_GROUP.read_text().strip() if CONTROL_GROUP.exists() else ""
    return min(memory, int(limit)) if limit.isdecimal() else memory


CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
"""Linux's limit of memory: a number of bytes, or ``max``."""


def device_name(device: torch.device) -> str:
    """Return the name of a device in records: ``cpu: x86_64``, ``cuda: NVIDIA H100 80GB HBM3``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"
