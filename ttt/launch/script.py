"""The script that submitit would give to sbatch, without a SLURM on this machine."""

import submitit

from ttt.config.cluster import ClusterConfig
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.resources import slurm_parameters


class _Anywhere(submitit.SlurmExecutor):
    """submitit's executor, which otherwise refuses a machine without srun."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def sbatch_script(folder: SweepFolder, cluster: ClusterConfig, runs: list[PlannedRun], name: str) -> str:
    """Return the script of a job array; nothing is written.

    A run that starts from another in the same submission waits for it: the script has PARENT in place of its job's id.

    Args:
        folder: the sweep's folder, for the paths of logs.
        cluster: the resources of each run.
        runs: the runs of the array.
        name: name of the job.
    """
    executor = _Anywhere(folder.submitit, max_num_timeout=cluster.requeues)
    parameters = slurm_parameters(cluster, runs[0], name, "PARENT" if runs[0].parent else None)
    slurm = {key.removeprefix("slurm_"): value for key, value in parameters.items()}
    executor.update_parameters(**executor._convert_parameters(slurm))
    if len(runs) > 1:
        executor.parameters["map_count"] = len(runs)
    return executor._make_submission_file_text(executor._submitit_command_str, "dry")
