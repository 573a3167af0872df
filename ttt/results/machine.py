"""The machine of a benchmark."""

import os
import platform
import subprocess
from pathlib import Path
from typing import NotRequired, TypedDict

CPU_INFO = Path("/proc/cpuinfo")


class Machine(TypedDict):
    """The processor's name, the cores that this process may use, the threads that it used, and the GPU's name."""

    cpu: str
    cores: int
    threads: int
    gpu: NotRequired[str | None]


def describe_machine(threads: int, gpu: str | None = None) -> Machine:
    """Return a description of this machine; the caller computes with ``threads`` and ``gpu``."""
    return {"cpu": cpu_name(), "cores": _cores(), "threads": threads, "gpu": gpu}


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system does not report the name."""
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _cores() -> int:
    # The cores that the process may use, where known: a container often has fewer than its machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
