"""The machine that a benchmark was measured on."""

import platform
import subprocess
from pathlib import Path
from typing import NotRequired, TypedDict

from ttt.config.system import available_cores

CPU_INFO = Path("/proc/cpuinfo")


class Machine(TypedDict):
    """Name of the processor, cores that the process may use, threads that it used, and name of the GPU."""

    cpu: str
    cores: int
    threads: int
    gpu: NotRequired[str | None]


def describe_machine(threads: int, gpu: str | None = None) -> Machine:
    """Return a description of this machine, used with ``threads`` threads and ``gpu``."""
    return {"cpu": cpu_name(), "cores": available_cores(), "threads": threads, "gpu": gpu}


def cpu_name() -> str:
    """Return the processor's brand name, or its architecture if the system does not report one."""
    if CPU_INFO.is_file():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()
