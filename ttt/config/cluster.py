"""The schema of ``slurm/``: resources and limits of the jobs of a sweep. Values are in the YAML files."""

from dataclasses import dataclass
from typing import Any

from ttt.config.errors import bad_value
from ttt.config.keys import REQUIRED, check_keys, key

LATEST_START_S = 45
"""Seconds that a process needs before it can handle the signal; earlier, the signal kills it. SLURM checks time limits
twice a minute and may send the signal half a minute early."""


@dataclass
class ClusterConfig:
    """The resources of a job on a cluster. A job is one run."""

    name: str = key(REQUIRED, "name of the cluster; default: the name of its YAML")
    executor: str = key("slurm", "slurm, or local for processes on this machine", choices=("slurm", "local"))
    partition: str | None = key(
        None, "SLURM partition; null: SLURM's default, also for the next three keys", free_text=True
    )
    account: str | None = key(None, "account to charge", free_text=True)
    qos: str | None = key(None, "quality of service", free_text=True)
    constraint: str | None = key(None, "features that nodes must have", free_text=True)
    gpus_per_task: int = key(0, "GPUs for each of a run's trainer.devices processes", at_least=0)
    cpus_per_task: int = key(1, "CPU cores for each process", at_least=1)
    mem_gb: float | None = key(None, "memory per node, GB; null: SLURM's default", above=0)
    timeout_min: int = key(60, "time limit, minutes; a run that needs longer is saved and requeued", at_least=1)
    requeues: int = key(100, "how many times a run that reaches its time limit is requeued", at_least=0)
    signal_delay_s: int = key(90, "seconds before the time limit at which a run is signalled to save", at_least=0)
    array_parallelism: int = key(8, "runs of a job array at the same time", at_least=1)
    array_size: int = key(1000, "largest number of runs in one job array; at most SLURM's MaxArraySize", at_least=1)
    parallel: int = key(1, "runs at the same time with executor: local", at_least=1)
    setup: list[str] = key(list, "shell lines before the run, such as module load cuda")
    container: list[str] = key(list, "arguments of srun, such as --container-image=pytorch.sqsh")
    environment: dict[str, str] = key(dict, "environment variables of the run")
    additional: dict[str, Any] = key(dict, "other options of sbatch, without dashes; true: an option without a value")

    def check(self) -> None:
        """Check that values are in range.

        Raises:
            UserError: a value out of range.
        """
        check_keys(self, "slurm.")
        if self.executor == "slurm" and self.timeout_min * 60 < self.signal_delay_s + LATEST_START_S:
            allowed = f"must exceed slurm.signal_delay_s={self.signal_delay_s} by {LATEST_START_S} s to start a run"
            raise bad_value("slurm.timeout_min", self.timeout_min, allowed)


RESOURCES = ("cpus_per_task", "mem_gb", "timeout_min", "partition", "qos", "constraint")
"""Cluster keys that a rule of a sweep may set for some of its runs."""
