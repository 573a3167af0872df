"""Resources of a job: the cluster's values, overridden by the sweep's rules, overridden by slurm.KEY=VALUE."""

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
    """A cluster, and the keys of it that the command line set; those take precedence over the sweep's rules."""

    cluster: ClusterConfig
    changed: tuple[str, ...] = ()

    def shape(self, run: PlannedRun) -> ClusterConfig:
        """Return the cluster's values for one run.

        Raises:
            UserError: a value out of range, or several nodes on ``executor: local``.
        """
        own = {key: value for key, value in run.resources.items() if key not in self.changed}
        shape = replace(self.cluster, **own)
        shape.check()
        if shape.executor == "local" and run.nodes > 1:
            raise bad_value("trainer.nodes", run.nodes, f"slurm={shape.name} is one machine; submit to a cluster")
        return shape


def write_asked(folder: SweepFolder, asked: Asked) -> None:
    """Save the resources of a sweep's submission in its folder."""
    content = {"schema_version": SCHEMA_VERSION, "cluster": asdict(asked.cluster), "changed": asked.changed}
    write_text(folder.cluster, json.dumps(content, indent=1) + "\n")


def read_asked(folder: SweepFolder) -> Asked:
    """Return the resources of the sweep's last submission.

    Raises:
        UserError: the sweep has not been submitted.
    """
    hint = remedy = "submit the sweep with slurm=CLUSTER"
    keys = {"cluster", "changed"}
    found = read_versioned(folder.cluster, SCHEMA_VERSION, keys, "a cluster's shape", hint, remedy)
    return Asked(ClusterConfig(**found["cluster"]), tuple(found["changed"]))


def slurm_parameters(shape: ClusterConfig, run: PlannedRun, name: str, dependency: str | None) -> dict[str, Any]:
    """Return the parameters of submitit's SLURM executor.

    Args:
        shape: the cluster's values for the run, from ``Asked.shape``.
        run: the run, for its nodes and processes.
        name: name of the job.
        dependency: id of the job that must succeed first, or None.
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
        # Without this, the processes of a run wait until the time limit for one that was killed.
        "slurm_srun_args": ["--kill-on-bad-exit=1", *shape.container],
        # requeue: after a node failure the job restarts. kill-on-invalid-dep: a failed parent leaves no job waiting.
        "slurm_additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **shape.additional},
        **{key: value for key, value in optional.items() if value is not None},
    }


def job_of(folder: SweepFolder, run: PlannedRun, sweep: str) -> Job:
    """Return the job that trains a run."""
    return Job(folder.config(run.run_id), folder.ends(run.run_id), sweep, run.overrides)
