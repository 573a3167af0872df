"""Starting a run from its configuration, on the command line or in a cluster job."""

import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ttt.config.errors import UserError
from ttt.config.little_data import little_data
from ttt.config.plain import from_plain
from ttt.config.schema import TrainConfig
from ttt.results.lock import locked
from ttt.results.record import Record
from ttt.results.run_record import Label
from ttt.results.steps import steps_in_words, stopped_early
from ttt.train.opening import Opening, open_run
from ttt.train.planning import RunPlan, plan_run
from ttt.train.processes import all_ranks_or_fail, broadcast_from_rank0, check_processes, process_group, rank
from ttt.train.quick_imports import quick_imports
from ttt.train.requeueing import requeueing

if TYPE_CHECKING:
    from ttt.evaluate.perplexity import SplitEvaluation
    from ttt.train.prepare import PreparedRun


def train(
    config: TrainConfig, overrides: list[str], sweep: str | None = None, label: Callable[[], Label] | None = None
) -> None:
    """Train and evaluate one configuration, or report that the run is finished.

    The run's folder is locked from before it is read until the evaluation has ended.

    Args:
        config: the run.
        overrides: overrides on the command line, for the record.
        sweep: the sweep that the run belongs to, for the record.
        label: returns the run's description for figures, for the record; called only for a run that is trained.

    Raises:
        UserError: the configuration, the folder or the data cannot be used, or another process writes the folder.
        RunError: the run failed.
    """
    plan = plan_run(config, overrides, sweep)
    check_processes(plan.config.trainer)
    with requeueing(), process_group(plan.config.trainer.device), ExitStack() as lock:
        opening = broadcast_from_rank0(lambda: _open(plan, lock))
        if opening.action == "finished" and opening.record is not None:
            if rank() == 0:
                print(_finished(plan, opening.record))
            return
        # torch is imported only now, so that a mistake in the configuration or a folder of another run is reported at
        # once.
        with quick_imports():
            from ttt.train.prepare import prepare
            from ttt.train.run import run

        labelled = replace(plan, label=label() if label else None)
        prepared = all_ranks_or_fail(lambda: prepare(labelled, opening))
        _report_start(prepared)
        evaluation = run(prepared)
        if evaluation is not None:
            _report_end(prepared, evaluation)


def _open(plan: RunPlan, lock: ExitStack) -> Opening:
    """Return the action for the run's folder, which the first process locks until ``lock`` is closed."""
    if rank() == 0:
        lock.enter_context(locked(plan.folder.path))
    return open_run(plan)


def _finished(plan: RunPlan, record: Record) -> str:
    """Return the line about a run that has been trained already."""
    reached = f"validation perplexity {record['results']['validation']['perplexity']:.2f}{_after(record)}"
    asked = plan.step_plan.steps
    more = f", more than trainer.max_steps={asked} asks for (run=ANOTHER_FOLDER trains {asked:,})"
    done = f"{record['steps']:,} steps{more}, " if record["steps"] > asked else ""
    further = f"ttt-train run={shlex.quote(str(plan.folder.path))} goes on, " if stopped_early(record) else ""
    return f"{plan.folder.path} is finished: {done}{reached}; {further}overwrite=true runs it again"


def _after(record: Record) -> str:
    """Return how far a run was trained that was stopped before the end of its schedule; otherwise nothing."""
    return f" after {steps_in_words(record)}, stopped by trainer.max_steps" if stopped_early(record) else ""


def _report_start(prepared: "PreparedRun") -> None:
    from ttt.data.usage import describe_usage

    if rank() == 0:
        verb = "resuming" if prepared.newest else "training"
        plan, done = prepared.plan, prepared.newest.step if prepared.newest else 0
        if done > plan.step_plan.steps:
            asked = f"trainer.max_steps={plan.step_plan.steps} asks for fewer; they are evaluated as they are"
            print(f"{plan.folder.path}: {done} steps are done, {asked}", file=sys.stderr)
            return
        whole = plan.step_plan.schedule_steps
        part = f" of {whole:,}" if plan.step_plan.steps < whole else ""
        steps = f"{plan.step_plan.steps:,}{part} steps of {plan.step_plan.tokens_per_step:,} tokens"
        print(f"{verb} {plan.folder.path}: {steps}", file=sys.stderr)
        print(describe_usage(prepared.corpus.splits["train"], plan.config.ctx.length), file=sys.stderr)
        times = plan.step_plan.steps * plan.step_plan.sequences / len(prepared.windows)
        if times > 1:
            print(f"the {plan.step_plan.steps} steps read these windows {times:.2g} times", file=sys.stderr)


def _report_end(prepared: "PreparedRun", evaluation: "SplitEvaluation") -> None:
    """Print the size and the cost of the run, the command that uses it, and its result as the last line."""
    content, folder = prepared.record.content, prepared.plan.folder.path
    timing = content["timing"]
    seconds, speed = timing["seconds"] or 0.0, timing["tokens_per_second"] or 0.0
    duration = f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
    cost = f"{content['tokens']:,} tokens in {duration} ({speed:,.0f} tokens/s)"
    if small := little_data("validation", evaluation.judged, evaluation.tokens):
        print(small, file=sys.stderr)
    print(f"{content['parameters']['total']:,} parameters, {cost}")
    print(f"next: {_next(shlex.quote(str(folder)), content)}")
    reached = f"validation perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token)"
    if prepared.windows.answers is not None:
        reached = f"{evaluation.accuracy:.1%} of the validation answers right, {reached.replace('token', 'answer')}"
    print(f"{folder}: {reached}{_after(content) or f' after {steps_in_words(content)}'}")


def _next(folder: str, record: Record) -> str:
    """Return what to do with a run that has ended; a run that was stopped early can go on."""
    if stopped_early(record):
        return f"ttt-train run={folder} goes on to {record['steps_planned']:,} steps; ttt-plot lists the figures"
    return f'ttt-generate run={folder} prompt="..." continues a text; ttt-plot lists the figures'


def read_config(path: Path) -> TrainConfig:
    """Return the resolved configuration in a file of a run or of a sweep.

    Raises:
        UserError: the file is missing, or is not a configuration of this version.
    """
    from ttt.data.sources import data_schema
    from ttt.layers.registry import layer_schema

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        return from_plain(plain, layer_schema(plain["model"]["name"]), data_schema(plain))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); plan and submit the sweep again") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: is not a run's configuration ({reason}); plan and submit the sweep again") from error
