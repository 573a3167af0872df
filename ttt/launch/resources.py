"""Resources of a job: the cluster's values, overridden by the sweep's rules, overridden by slurm.KEY=VALUE."""

import json
import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from ttt.config.cluster import ClusterConfig
from ttt.config.errors import bad_value
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.results.atomic import write_text
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Resources:
    """A cluster, and its keys that the command line set; these take precedence over the sweep's rules."""

    cluster: ClusterConfig
    changed: tuple[str, ...] = ()

    def of(self, run: PlannedRun) -> ClusterConfig:
        """Return the cluster's values for one run.

        Raises:
            UserError: a value out of range, or several nodes on ``executor: local``.
        """
        from_rules = {key: value for key, value in run.resources.items() if key not in self.changed}
        cluster = replace(self.cluster, **from_rules)
        cluster.check()
        if cluster.executor == "local" and run.nodes > 1:
            raise bad_value("trainer.nodes", run.nodes, f"slurm={cluster.name} is one machine; submit to a cluster")
        return cluster


def write_resources(folder: SweepFolder, resources: Resources) -> None:
    """Save the resources of a sweep's submission in its folder."""
    content = {"schema_version": SCHEMA_VERSION, "cluster": asdict(resources.cluster), "changed": resources.changed}
    write_text(folder.cluster, json.dumps(content, indent=1) + "\n")


def read_resources(folder: SweepFolder) -> Resources:
    """Return the resources of the sweep's last submission.

    Raises:
        UserError: the sweep has not been submitted.
    """
    hint = remedy = "submit the sweep with slurm=CLUSTER"
    content = read_versioned(folder.cluster, SCHEMA_VERSION, {"cluster", "changed"}, "a cluster", hint, remedy)
    return Resources(ClusterConfig(**content["cluster"]), tuple(content["changed"]))


def slurm_parameters(cluster: ClusterConfig, run: PlannedRun, name: str, dependency: str | None) -> dict[str, Any]:
    """Return the parameters of submitit's SLURM executor.

    Args:
        cluster: the cluster's values for the run, from ``Resources.of``.
        run: the run, for its nodes and processes.
        name: name of the job.
        dependency: id of the job that must succeed first, or None.
    """
    exports = [f"export {key}={shlex.quote(value)}" for key, value in sorted(cluster.environment.items())]
    optional = {
        "mem_gb": cluster.mem_gb,
        "gpus_per_node": cluster.gpus_per_task * run.devices or None,
        "slurm_partition": cluster.partition,
        "slurm_account": cluster.account,
        "slurm_qos": cluster.qos,
        "slurm_constraint": cluster.constraint,
        "slurm_dependency": f"afterok:{dependency}" if dependency else None,
        "slurm_setup": [*exports, *cluster.setup] or None,
    }
    return {
        "name": name,
        "nodes": run.nodes,
        "tasks_per_node": run.devices,
        "cpus_per_task": cluster.cpus_per_task,
        "timeout_min": cluster.timeout_min,
        "slurm_signal_delay_s": cluster.signal_delay_s,
        "slurm_array_parallelism": cluster.array_parallelism,
        # Without this, the processes of a run wait until the time limit for one that was killed.
        "slurm_srun_args": ["--kill-on-bad-exit=1", *cluster.container],
        # requeue: after a node failure the job restarts. kill-on-invalid-dep: a failed parent leaves no job waiting.
        "slurm_additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.additional},
        **{key: value for key, value in optional.items() if value is not None},
    }
