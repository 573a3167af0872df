"""Finding and ending the processes of daemons and jobs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 30
"""Seconds for a daemon to answer or to end."""


def find_process(pid_file: Path) -> int | None:
    """Return the process id in the file, or None if the process does not run."""
    try:
        process = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return process if is_running(process) else None


def is_running(process: int) -> bool:
    """Return whether the process runs and is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def end(process: int | None, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, wait, and kill the process if it does not end in time."""
    if process is None:
        return
    deadline = time.monotonic() + PATIENCE_S
    try:
        os.kill(process, number)
        while is_running(process) and time.monotonic() < deadline:
            time.sleep(0.02)
        if is_running(process):
            os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


def job_processes(slurm_conf: Path) -> Iterator[int]:
    """Yield the processes of the cluster's jobs that outlive a killed daemon."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
        except OSError:
            continue
        of_cluster = f"SLURM_CONF={slurm_conf}".encode() in variables
        if of_cluster and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables):
            yield int(environ.parent.name)
