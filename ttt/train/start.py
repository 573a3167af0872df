"""Starting a run from its configuration, whoever asks for it: the command line or a job of a cluster."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from ttt.config.errors import UserError
from ttt.config.plain import from_plain
from ttt.config.plan import StepPlan, check
from ttt.config.schema import TrainConfig
from ttt.results.lock import holding
from ttt.results.parent import adopt_parent
from ttt.results.record import RunFolder, read_record
from ttt.train.opening import Opening, open_run, run_folder
from ttt.train.processes import all_or_none, as_the_first, check_processes, joined, launcher, rank


def train(config: TrainConfig, overrides: list[str], sweep: str | None = None) -> None:
    """Runs one configuration, or says that it has been run.

    From before anything is read in the run's folder to the end of the evaluation no other process can write there.

    Args:
        config: the run.
        overrides: what was asked for on top of the defaults, for the record.
        sweep: the sweep that the run belongs to, for the record.

    Raises:
        UserError: the configuration, the folder or the data cannot be, or another process writes the folder.
        RunError: the run failed.
    """
    adopt_parent(config)
    plan = check(config)
    check_processes(config.trainer)
    # Heavy imports wait until the configuration has been found good, so that a mistake is answered at once.
    from ttt.train.stopping import requeueing

    with requeueing(), together(config), ExitStack() as held:
        folder = run_folder(config)
        opening = as_the_first(lambda: _open(config, plan, folder, held))
        if opening != "finished":
            _run(config, plan, folder, opening, overrides, sweep)
        elif rank() == 0:
            reached = read_record(folder.record)["results"]["validation"]["perplexity"]
            print(f"{folder.path} is finished: validation perplexity {reached:.2f}; overwrite=true runs it again")


def _open(config: TrainConfig, plan: StepPlan, folder: RunFolder, held: ExitStack) -> Opening:
    """What to do in the folder, which the first process holds for all until ``held`` is closed."""
    if rank() == 0:
        held.enter_context(holding(folder.path))
    return open_run(config, plan, folder)


def _run(
    config: TrainConfig, plan: StepPlan, folder: RunFolder, opening: Opening, overrides: list[str], sweep: str | None
) -> None:
    from ttt.train.run import run, set_up

    setting = all_or_none(lambda: set_up(config, plan, folder, resume=opening == "resume"))
    if rank() == 0:
        verb = "going on with" if setting.newest else "training"
        print(f"{verb} {folder.path}: {plan.steps} steps of {plan.tokens_per_step:,} tokens", file=sys.stderr)
    evaluation = run(setting, overrides, sweep)
    if evaluation is not None:
        print(f"{folder.path}: validation perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token)")


def read_config(path: Path) -> TrainConfig:
    """The resolved configuration in a file, as a run's folder and a sweep's hold it.

    Raises:
        UserError: no such file, or none that describes a run of this version.
    """
    from ttt.data.sources import data_schema
    from ttt.layers.registry import layer_type

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        return from_plain(plain, layer_type(plain["model"]["name"]).schema, data_schema(plain))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); plan and submit the sweep again") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: is not a run's configuration ({reason}); plan and submit the sweep again") from error


@contextmanager
def together(config: TrainConfig) -> Iterator[None]:
    """With the other processes of the run, where a launcher has started them."""
    if launcher() is None:
        yield
        return
    from ttt.models.device import choose_device

    with joined(choose_device(config.trainer.device, "trainer.device").type):
        yield
