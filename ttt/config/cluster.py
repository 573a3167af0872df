"""The vocabulary of ``slurm/``: what a job of a sweep asks of the machine that runs it. Values live in the YAMLs."""

from dataclasses import dataclass, field
from typing import Any

from ttt.config.errors import bad_value

EXECUTORS = ("slurm", "local")

LATEST_START = 45
"""Seconds. SLURM looks at the clock twice a minute and may signal half a minute early; a process that has not yet come
as far as to handle the signal dies of it."""


@dataclass
class ClusterConfig:
    """A cluster's shape. Numbers are for one job, which is one run, unless they say otherwise.

    Attributes:
        name: the file's.
        executor: slurm, or local for processes on this machine.
        partition: SLURM's partition; null, as for the next three: SLURM's default.
        account: who pays.
        qos: quality of service.
        constraint: features that nodes must have.
        gpus_per_task: GPUs for each of a run's ``trainer.devices`` processes; 0: none is asked for.
        cpus_per_task: CPU cores for each process.
        mem_gb: memory of a node, GB; null: SLURM's default.
        timeout_min: minutes after which a job is stopped, saved and queued again.
        requeues: how often a run that needs longer than ``timeout_min`` is queued again.
        signal_delay_s: seconds before the time limit at which a run is told to save.
        array_parallelism: jobs of an array that run at the same time, at most.
        parallel: the same for ``executor: local``.
        setup: shell lines before the run, such as ``module load cuda``.
        container: arguments of ``srun``, such as ``--container-image=...``.
        environment: variables for the run.
        additional: any other option of ``sbatch``, without its dashes; true for one without a value.
    """

    name: str = "???"
    executor: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_task: int = 0
    cpus_per_task: int = 1
    mem_gb: float | None = None
    timeout_min: int = 60
    requeues: int = 100
    signal_delay_s: int = 90
    array_parallelism: int = 8
    parallel: int = 1
    setup: list[str] = field(default_factory=list)
    container: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    additional: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuses values that no job can have.

        Raises:
            UserError: a value out of its range.
        """
        if self.executor not in EXECUTORS:
            raise bad_value("slurm.executor", self.executor, f"choose one of {', '.join(EXECUTORS)}")
        for key, low in (
            ("gpus_per_task", 0),
            ("cpus_per_task", 1),
            ("timeout_min", 1),
            ("requeues", 0),
            ("signal_delay_s", 0),
            ("array_parallelism", 1),
            ("parallel", 1),
        ):
            if getattr(self, key) < low:
                raise bad_value(f"slurm.{key}", getattr(self, key), f"must be at least {low}")
        if self.executor == "slurm" and self.timeout_min * 60 < self.signal_delay_s + LATEST_START:
            least = f"must leave {LATEST_START} s before slurm.signal_delay_s={self.signal_delay_s}"
            raise bad_value("slurm.timeout_min", self.timeout_min, f"{least}, for a run to start in")
        if self.mem_gb is not None and self.mem_gb <= 0:
            raise bad_value("slurm.mem_gb", self.mem_gb, "must be positive, or null")


RESOURCES = ("cpus_per_task", "mem_gb", "timeout_min", "partition", "qos", "constraint")
"""Keys of a cluster that a rule of a sweep may set for some of its runs."""
