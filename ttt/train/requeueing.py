"""Requeueing the cluster job of a run that a signal has ended. Does not import torch."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ttt.config.errors import InterruptedRunError


@contextmanager
def requeueing() -> Iterator[None]:
    """Let submitit's handler of SIGUSR2, if there is one, requeue the job after a signal has ended the run.

    The handler saves the job to start again and ends the process. It is called after everything is written and the
    folder is unlocked. Preempted and cancelled jobs both get SIGTERM; SLURM is queried, and only a preempted job is
    requeued.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    try:
        yield
    except InterruptedRunError as stopped:
        number = stopped.number
        if callable(handler) and (number == signal.SIGUSR2 or (number == signal.SIGTERM and preempted())):
            handler(signal.SIGUSR2, None)
        raise


def preempted() -> bool:
    """Return whether SLURM is preempting this job; during the grace time, the job counts as running."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return "JobState=RUNNING" in shown.stdout and re.search(r"PreemptTime=\d", shown.stdout) is not None
