"""``ttt-sweep``: plan many runs; submit, watch, retry and collect them."""

import sys
from dataclasses import fields

from ttt.cli.errors import exit_with_one_line
from ttt.cli.help import comment
from ttt.cli.sweep.files import SCALES
from ttt.cli.sweep.request import parse
from ttt.config.assets import assets
from ttt.config.cluster import ClusterConfig

HELP = """\
ttt-sweep plans many runs, submits them to a cluster, watches and retries them, and collects their results.

usage: ttt-sweep plan    sweep=NAME [KEY=VALUE ...]                  list the runs and estimate their cost
       ttt-sweep submit  sweep=NAME slurm=CLUSTER [KEY=VALUE ...]    submit runs that are not finished or queued
       ttt-sweep status  sweep=NAME [--watch] [--json]               print one line per run
       ttt-sweep status  sweep=NAME --folders                        print the folders of runs finished here
       ttt-sweep retry   sweep=NAME [RUN ...] [slurm.mem_gb=128]     resubmit runs that failed, died or timed out
       ttt-sweep cancel  sweep=NAME [RUN ...]                        cancel runs that wait or run
       ttt-sweep logs    sweep=NAME RUN                              print the output of a run's last job
       ttt-sweep collect sweep=NAME out=FOLDER                       copy results, for ttt-plot runs=FOLDER

  ttt-sweep plan sweep=books_scaling
  ttt-sweep submit sweep=rates slurm=local                   processes on this machine, slurm.parallel=2 at a time
  ttt-sweep submit sweep=ablation scale=laptop slurm=local   the laptop's version of a sweep that has both scales
  ttt-sweep submit sweep=rates slurm=local seed=0,1 ctx=512  set the values of an axis, or a key of every run
  ttt-sweep submit sweep=my.yaml slurm=my_cluster.yaml       your own files
  ttt-sweep submit sweep=books_scaling slurm=a100 canary=true --watch   one run of each shape first, then the others
  ttt-sweep submit sweep=books_scaling slurm=a100 limit=100  a part now, the next with the same command
  ttt-sweep status sweep=rates --watch
  ttt-sweep submit sweep=rates slurm=local known=results/mine   only the runs that do not lie in results/mine
  ttt-sweep collect sweep=rates out=results/mine                add the others; runs that lie there stay

RUN is a run's id or a unique part of it. You can submit again at any time: runs that are finished, queued or running
are skipped, whichever sweep submitted them.

Sweeps at the paper's scale (scale=paper, sweeps/paper/NAME.yaml), the default if both exist:

{paper}

Sweeps for a laptop (scale=laptop, sweeps/laptop/NAME.yaml):

{laptop}

Clusters (slurm/NAME.yaml; slurm/README.md explains how to add one):

{clusters}

Keys of ttt-sweep:

  scale=paper                    paper or laptop
  runs=runs                      folder of all run folders
  folder=FOLDER                  folder for the sweep's plan, jobs and logs (default: runs/sweeps/SCALE_NAME)
  known=FOLDER                   plan, submit, status, collect: runs that lie finished in FOLDER/RUN_ID, as ttt-sweep
                                 collect or ttt-train writes them, count as made. Known runs from whose weights others
                                 start are trained, unless those are made. submit remembers FOLDER for all later
                                 commands of the sweep; known=null forgets it
  device=h100 utilisation=0.4    plan: GPU and utilisation for the estimate of GPU-hours
  memory=true                    plan: also the counted memory of a step on that GPU
  slurm.KEY=VALUE                submit, retry: override a value of the cluster's file for all runs
  limit=N                        submit: at most N runs; the same command later submits the next
  canary=true                    submit: one run of each shape (model, size, context, data, trainer); the same command
                                 submits the others of a shape when a run has trained a step, and --watch waits for it
  force=true                     retry: include runs that failed three times in the same way
  lines=40                       logs: number of lines per file
  interval=10                    --watch: seconds between updates

Keys of a cluster, in its file or as slurm.KEY=VALUE:

{cluster_keys}
"""


def main() -> None:
    """Run ``ttt-sweep``."""
    with exit_with_one_line():
        if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
            sweeps = {scale: _listing(f"sweeps/{scale}") for scale in SCALES}
            keys = "\n".join(f"  {key.name:<19}{key.metadata['help']}" for key in fields(ClusterConfig))
            print(HELP.format(**sweeps, clusters=_listing("slurm"), cluster_keys=keys))
            return
        request = parse(sys.argv[1:])
        # Imported here, so that a mistake on the command line is reported before any slow import.
        from ttt.cli.sweep.commands import COMMANDS

        COMMANDS[request.command](request)


def _listing(folder: str) -> str:
    files = sorted((assets() / folder).glob("*.yaml"))
    width = max(len(file.stem) for file in files) + 2
    return "\n".join(f"  {file.stem:<{width}}{comment(file)}" for file in files)


if __name__ == "__main__":
    main()
