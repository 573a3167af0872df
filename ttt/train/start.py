"""Starting a run from its configuration, whoever asks for it: the command line or a job of a cluster."""

import sys

from ttt.config.plan import check
from ttt.config.schema import TrainConfig
from ttt.results.parent import adopt_parent


def train(config: TrainConfig, overrides: list[str], sweep: str | None = None) -> None:
    """Runs one configuration, or says that it has been run.

    Args:
        config: the run.
        overrides: what was asked for on top of the defaults, for the record.
        sweep: the sweep that the run belongs to, for the record.

    Raises:
        UserError: the configuration, the folder or the data cannot be.
        RunError: the run failed.
    """
    adopt_parent(config)
    plan = check(config)
    # Heavy imports wait until the configuration has been found good, so that a mistake is answered at once.
    from ttt.results.record import read_record
    from ttt.train.opening import open_run, run_folder

    folder = run_folder(config)
    opening = open_run(config, plan, folder)
    if opening == "finished":
        reached = read_record(folder.record)["results"]["validation"]["perplexity"]
        print(f"{folder.path} is finished: validation perplexity {reached:.2f}; overwrite=true runs it again")
        return
    from ttt.train.device import rank
    from ttt.train.run import run, set_up

    setting = set_up(config, plan, folder, resume=opening == "resume")
    if rank() == 0:
        verb = "going on with" if setting.newest else "training"
        print(f"{verb} {folder.path}: {plan.steps} steps of {plan.tokens_per_step:,} tokens", file=sys.stderr)
    evaluation = run(setting, overrides, sweep)
    if evaluation is not None:
        print(f"{folder.path}: validation perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token)")
