"""What a job asks of a machine: the cluster's shape, what the sweep says of the run, what was said for all of them."""

import json
import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import bad_value
from ttt.launch.job import Job
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """A cluster, and which of its keys were set on the command line: those count whatever the sweep says of a run."""

    cluster: ClusterConfig
    changed: tuple[str, ...] = ()

    def shape(self, run: PlannedRun) -> ClusterConfig:
        """The cluster for one run.

        Raises:
            UserError: a value that no job can have.
        """
        own = {key: value for key, value in run.resources.items() if key not in self.changed}
        shape = replace(self.cluster, **own)
        shape.check()
        if shape.executor == "local" and run.nodes > 1:
            raise bad_value("trainer.nodes", run.nodes, f"slurm={shape.name} is one machine; submit to a cluster")
        return shape


def write_asked(folder: SweepFolder, asked: Asked) -> None:
    """Notes what a sweep was submitted to."""
    content = {"schema_version": SCHEMA_VERSION, "cluster": asdict(asked.cluster), "changed": asked.changed}
    write_text(folder.cluster, json.dumps(content, indent=1) + "\n")


def read_asked(folder: SweepFolder) -> Asked:
    """What the sweep was last submitted to.

    Raises:
        UserError: it has not been submitted.
    """
    hint = remedy = "submit the sweep with slurm=CLUSTER"
    keys = {"cluster", "changed"}
    found = read_versioned(folder.cluster, SCHEMA_VERSION, keys, "a cluster's shape", hint, remedy)
    return Asked(ClusterConfig(**found["cluster"]), tuple(found["changed"]))


def slurm_parameters(shape: ClusterConfig, run: PlannedRun, name: str, dependency: str | None) -> dict[str, Any]:
    """What submitit's executor for SLURM is told.

    Args:
        shape: as ``Asked.shape`` gives it.
        run: whose processes the job gets.
        name: of the job.
        dependency: the job that must have succeeded before.
    """
    exports = [f"export {key}={shlex.quote(value)}" for key, value in sorted(shape.environment.items())]
    optional = {
        "mem_gb": shape.mem_gb,
        "gpus_per_node": shape.gpus_per_task * run.devices or None,
        "slurm_partition": shape.partition,
        "slurm_account": shape.account,
        "slurm_qos": shape.qos,
        "slurm_constraint": shape.constraint,
        "slurm_dependency": f"afterok:{dependency}" if dependency else None,
        "slurm_setup": [*exports, *shape.setup] or None,
    }
    return {
        "name": name,
        "nodes": run.nodes,
        "tasks_per_node": run.devices,
        "cpus_per_task": shape.cpus_per_task,
        "timeout_min": shape.timeout_min,
        "slurm_signal_delay_s": shape.signal_delay_s,
        "slurm_array_parallelism": shape.array_parallelism,
        # Otherwise a process that was killed leaves the others of its run waiting for it until the time limit.
        "slurm_srun_args": ["--kill-on-bad-exit=1", *shape.container],
        # A node that fails costs what was done since the last checkpoint; a parent that fails leaves no job waiting.
        "slurm_additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **shape.additional},
        **{key: value for key, value in optional.items() if value is not None},
    }


def job_of(folder: SweepFolder, run: PlannedRun, sweep: str) -> Job:
    """What runs on the node."""
    return Job(folder.config(run.run_id), folder.ends(run.run_id), sweep, run.overrides, run.label)
