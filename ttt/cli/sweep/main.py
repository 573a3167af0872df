"""``ttt-sweep``: many runs planned together, submitted, watched, retried and collected."""

import sys

from ttt.cli.errors import exit_with_one_line
from ttt.cli.help import comment
from ttt.cli.sweep.files import SCALES
from ttt.cli.sweep.request import parse
from ttt.config.assets import assets

HELP = """\
ttt-sweep plans many runs, submits them to a cluster, watches and retries them, and collects their results.

usage: ttt-sweep plan    sweep=NAME [KEY=VALUE ...]                  what it would train, and what that costs
       ttt-sweep submit  sweep=NAME slurm=CLUSTER [KEY=VALUE ...]    jobs for what is neither finished nor queued
       ttt-sweep status  sweep=NAME [--watch] [--json]               a line for each run
       ttt-sweep status  sweep=NAME --folders                        a folder for each that is finished
       ttt-sweep retry   sweep=NAME [RUN ...] [slurm.mem_gb=128]     what failed, was killed or timed out
       ttt-sweep cancel  sweep=NAME [RUN ...]                        what waits or runs
       ttt-sweep logs    sweep=NAME RUN                              what a run's last job printed
       ttt-sweep collect sweep=NAME out=FOLDER                       records and metrics, for ttt-plot runs=FOLDER

  ttt-sweep plan sweep=books_scaling
  ttt-sweep submit sweep=training slurm=local                processes on this machine, slurm.parallel=2 at a time
  ttt-sweep submit sweep=ablation scale=laptop slurm=local   of a sweep that has both scales, the laptop's
  ttt-sweep submit sweep=training slurm=local seed=0 ctx=1k  other values of an axis; any other key is every run's
  ttt-sweep submit sweep=my.yaml slurm=my_cluster.yaml       files of your own
  ttt-sweep status sweep=training --watch

RUN is a run's id, or a part of it that no other has. Submitting again is harmless: a run that is finished, waits or
runs is left alone, in whatever sweep it was trained.

Sweeps at the paper's scale (scale=paper, sweeps/paper/NAME.yaml), the default where there is one:

{paper}

Sweeps for a laptop (scale=laptop, sweeps/laptop/NAME.yaml):

{laptop}

Clusters (slurm/NAME.yaml; slurm/README.md says how to write one):

{clusters}

Keys of its own:

  scale=paper                    or laptop
  runs_dir=runs                  where runs go
  folder=FOLDER                  where the sweep's plan, jobs and logs go (default: runs_dir/sweeps/SCALE_NAME)
  device=h100 utilisation=0.4    plan: for the estimate of GPU-hours
  slurm.KEY=VALUE                submit, retry: another value of the cluster's file, for all runs
  force=true                     retry: also what failed three times the same way
  lines=40                       logs: how many lines of each file
  interval=10                    status --watch: seconds
"""


def main() -> None:
    """Entry point of ``ttt-sweep``."""
    with exit_with_one_line():
        if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
            sweeps = {scale: _listing(f"sweeps/{scale}") for scale in SCALES}
            print(HELP.format(**sweeps, clusters=_listing("slurm")))
            return
        request = parse(sys.argv[1:])
        # A mistake on the command line is answered before anything is imported that takes time.
        from ttt.cli.sweep.commands import COMMANDS

        COMMANDS[request.command](request)


def _listing(folder: str) -> str:
    files = sorted((assets() / folder).glob("*.yaml"))
    width = max(len(file.stem) for file in files) + 2
    return "\n".join(f"  {file.stem:<{width}}{comment(file)}" for file in files)


if __name__ == "__main__":
    main()
