"""Stage ``machine``: versions, clocks, and the rates of copies and matrix products, which bound everything else."""

import importlib
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from ttt.bench.gpu.card import any_card
from ttt.bench.gpu.tables import Table
from ttt.bench.timing import clock_of, repeated

PACKAGES = ("torch", "triton", "numpy", "flash-linear-attention", "mamba-ssm")
QUERIED = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "memory.total")
COPIED_BYTES = 2**31
MATRIX = 8192
"""Rows and columns of the factors of the product that measures the peak."""


def machine(table: Table, folder: Path, seconds: float) -> None:  # noqa: ARG001 - as every stage
    """Add versions, then what the card is and how fast it copies and multiplies.

    Raises:
        UserError: there is no card; the versions have been added.
    """
    table.add(what="python", value=platform.python_version())
    for package in PACKAGES:
        table.add(what=package, value=_version(package))
    table.add(what="triton can be imported", value=_imported("triton"))
    device = any_card()
    properties = torch.cuda.get_device_properties(device)
    table.add(what="device", value=properties.name)
    table.add(what="multiprocessors", value=properties.multi_processor_count)
    table.add(what="memory, GiB", value=f"{properties.total_memory / 2**30:.0f}")
    table.add(what="CUDA of torch", value=torch.version.cuda)
    for name, value in _queried().items():
        table.add(what=name, value=value)
    measure_rates(table, device, COPIED_BYTES, MATRIX)


def measure_rates(table: Table, device: torch.device, copied: int, side: int) -> None:
    """Add the rates of a copy of ``copied`` bytes and of products of square matrices with ``side`` rows."""
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    table.add(what="copy, GB/s", value=f"{2 * copied / _seconds(device, partial(target.copy_, source)) / 1e9:,.0f}")
    del source, target
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        factors = torch.randn(2, side, side, dtype=dtype, device=device)
        rate = 2 * side**3 / _seconds(device, partial(torch.mm, *factors))
        table.add(what=f"{str(dtype).removeprefix('torch.')} product, TFLOP/s", value=f"{rate / 1e12:,.1f}")


def _seconds(device: torch.device, function: Callable[[], object]) -> float:
    function()
    return repeated(clock_of(device)("s", function))["s"]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _imported(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken installation can raise anything
        return f"no: {error}"
    return "yes"


def _queried() -> dict[str, str]:
    """Return what nvidia-smi says of the first card; empty without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    values = done.stdout.strip().split(", ")
    return dict(zip(QUERIED, values, strict=True)) if len(values) == len(QUERIED) else {}
