"""The schema of ``slurm/``: resources and limits of the jobs of a sweep. Values are in the YAML files."""

from dataclasses import dataclass, field
from typing import Any

from ttt.config.errors import bad_value

EXECUTORS = ("slurm", "local")

LATEST_START = 45
"""Seconds that a process needs before it can handle the signal; earlier, the signal kills it. SLURM checks time limits
twice a minute and may send the signal half a minute early."""


@dataclass
class ClusterConfig:
    """The resources of a job on a cluster. A job is one run.

    Attributes:
        name: name of the YAML file.
        executor: slurm, or local for processes on this machine.
        partition: SLURM partition; null: SLURM's default, here and in the next three.
        account: account that is charged.
        qos: quality of service.
        constraint: features that nodes must have.
        gpus_per_task: GPUs for each of a run's ``trainer.devices`` processes; 0: none.
        cpus_per_task: CPU cores for each process.
        mem_gb: memory per node, GB; null: SLURM's default.
        timeout_min: time limit, minutes; a run that needs longer saves a checkpoint and is requeued.
        requeues: how often a run that reaches the time limit is requeued.
        signal_delay_s: seconds before the time limit at which a run is signalled to save.
        array_parallelism: jobs of an array that run at the same time.
        parallel: runs at the same time with ``executor: local``.
        setup: shell lines before the run, such as ``module load cuda``.
        container: arguments of ``srun``, such as ``--container-image=...``.
        environment: environment variables of the run.
        additional: any other option of ``sbatch``, without its dashes; true for an option without a value.
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
        """Check that values are in range.

        Raises:
            UserError: a value out of range.
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
"""Cluster keys that a rule of a sweep may set for some of its runs."""
