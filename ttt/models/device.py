"""The choice of the torch device, and of the precision on it."""

import platform

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


def device_name(device: torch.device) -> str:
    """Return the name of a device in records: ``cpu: x86_64``, ``cuda: NVIDIA H100 80GB HBM3``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type}: {name}"
