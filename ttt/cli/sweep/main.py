"""``ttt-sweep``: plan many runs; submit, watch, retry and collect them."""

import sys
from dataclasses import fields

from ttt.cli.answer import answer
from ttt.cli.help import columns, comment
from ttt.cli.sweep.files import BUDGETS, SCALES
from ttt.cli.sweep.request import parse
from ttt.config.assets import assets
from ttt.config.cluster import ClusterConfig

HELP = """\
ttt-sweep plans many runs, submits them to a cluster, watches and retries them,
and collects their results.

usage: ttt-sweep COMMAND sweep=NAME [KEY=VALUE ...]

  plan      list the runs and estimate their cost
  submit    submit the runs that are not finished or queued; needs slurm=CLUSTER
  run       what fits into a limited time on this machine's GPU; needs budget=
  status    print one line per run; --watch until all have ended, --json
  retry     [RUN ...] submit again the runs that failed, died or timed out
  cancel    [RUN ...] cancel runs that wait or run
  logs      RUN: print the output of a run's last job
  collect   copy results to out=FOLDER, for ttt-plot runs=FOLDER

  ttt-sweep plan sweep=books_scaling
  ttt-sweep plan sweep=rates slurm=a100         also the jobs it would send
  ttt-sweep submit sweep=rates slurm=a100 dry=true      only those still to do
  ttt-sweep submit sweep=rates slurm=local      on this machine
  ttt-sweep submit sweep=ablation scale=laptop slurm=local      at laptop scale
  ttt-sweep submit sweep=rates slurm=local seed=0,1 ctx=512
                                                values of an axis, or of any key
  ttt-sweep submit sweep=my.yaml slurm=my_cluster.yaml  your own files
  ttt-sweep submit sweep=rates slurm=a100 canary=true --watch
                                                one run of each shape first
  ttt-sweep submit sweep=rates slurm=a100 limit=100     some now, others later
  ttt-sweep submit sweep=rates slurm=local known=results/mine
                                                without the runs in results/mine
  ttt-sweep run budget=hour                     the best of an hour of one GPU
  ttt-sweep run budget=night_context_gain time=8h dry=true       only its plan
  ttt-sweep status sweep=rates --watch
  ttt-sweep status sweep=rates --folders        folders of runs finished here
  ttt-sweep retry sweep=rates slurm.mem_gb=128
  ttt-sweep collect sweep=rates out=results/mine        runs that lie there stay

RUN is a run's id or a unique part of it. You can submit again at any time:
runs that are finished, queued or running are skipped, whichever sweep submitted
them.

Sweeps at the paper's scale (scale=paper, sweeps/paper/NAME.yaml), the default
where they exist:

{paper}

Sweeps for a laptop (scale=laptop, sweeps/laptop/NAME.yaml):

{laptop}

Sweeps for one GPU (scale=gpu, sweeps/gpu/NAME.yaml):

{gpu}

Budgets for one GPU (sweeps/budgets/NAME.yaml; docs/gpu.md):

{budgets}

Clusters (slurm/NAME.yaml; slurm/README.md explains how to add one):

{clusters}

Keys of ttt-sweep:

{keys}

Keys of a cluster, in its file or as slurm.KEY=VALUE:

{cluster_keys}
"""

MEANINGS = {
    "scale=paper": "paper, laptop or gpu",
    "runs=runs": "folder of all run folders",
    "folder=FOLDER": "folder for the sweep's plan, jobs and logs (default: runs/sweeps/SCALE_NAME)",
    "known=FOLDER": "plan, submit, status, collect: runs that lie finished in FOLDER/RUN_ID, as ttt-sweep collect or "
    "ttt-train writes them, count as made. Known runs from whose weights others start are trained, unless those are "
    "made. submit remembers FOLDER for all later commands of the sweep; known=null forgets it",
    "slurm=CLUSTER": "submit, plan: the cluster; plan then shows its jobs",
    "slurm.KEY=VALUE": "submit, plan, retry: override a value of the cluster's file for all runs",
    "dry=true": "submit: print the script and the command of each shape of job; run: print the plan and its time; "
    "nothing is sent, trained or written",
    "budget=NAME": "run: a file of sweeps/budgets, or your own .yaml file",
    "time=TIME": "run: the time of all calls together, such as 55m or 8h (default: the budget's)",
    "share=0.5": "run: share of the tokens of each run (default: the largest at which the first parts fit)",
    "bench.KEY=VALUE": "run: a key of the benchmarks; other keys are for the runs",
    "device=here": "plan: estimate the time on this machine, by earlier runs in runs= or by a short measurement; or "
    "v100, a100, h100, h200, b200: GPU-hours. Default: here for a sweep of less than a GPU-hour, otherwise h100",
    "utilisation=0.4": "plan: share of the GPU's peak rate that is reached",
    "memory=true": "plan: also the counted memory of a step on that GPU, and whether it fits",
    "limit=N": "submit: at most N runs; the same command later submits the next",
    "canary=true": "submit: one run of each shape (model, size, context, data, trainer); the same command submits the "
    "others of a shape when a run has trained a step, and --watch waits for it",
    "force=true": "retry: include runs that failed three times in the same way",
    "lines=40": "logs: number of lines per file",
    "interval=10": "--watch: seconds between updates; into a file, only changes are written",
    "--wide": "plan, status: whole names, in lines longer than 80 columns",
}
"""Key or flag, as on the command line -> meaning."""


def main() -> None:
    """Run ``ttt-sweep``."""
    answer(sys.argv[1:] or ["--help"], help_text, _run)


def help_text() -> str:
    """Return the help, with the sweeps, the clusters and the keys."""
    sweeps = {scale: _listing(f"sweeps/{scale}") for scale in SCALES}
    cluster = {key.name: key.metadata["help"] for key in fields(ClusterConfig)}
    parts = {
        "budgets": _listing(f"sweeps/{BUDGETS}"),
        "clusters": _listing("slurm"),
        "keys": columns(MEANINGS),
        "cluster_keys": columns(cluster),
    }
    return HELP.format(**sweeps, **parts)


def _run(words: list[str]) -> None:
    request = parse(words)
    # Imported here, so that a mistake on the command line is reported before any slow import.
    from ttt.cli.sweep.commands import COMMANDS

    COMMANDS[request.command](request)


def _listing(folder: str) -> str:
    return columns({file.stem: comment(file) for file in sorted((assets() / folder).glob("*.yaml"))})


if __name__ == "__main__":
    main()
