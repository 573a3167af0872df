"""The choice of the torch device."""

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
