"""``ttt-eval``: evaluate a trained run on another split, context, text or on tasks, or probe its inner loops."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ttt.cli.command import Command
from ttt.cli.stopping import one_line_on_sigterm
from ttt.cli.tasks import check_tasks, score_on_tasks
from ttt.config.errors import DivergedError, bad_value
from ttt.config.identity import context_name
from ttt.config.keys import check_keys
from ttt.config.little_data import little_data
from ttt.config.schema import EvalConfig
from ttt.data.local import check_paths
from ttt.results.copying import COPIES_BELOW

if TYPE_CHECKING:
    from ttt.evaluate.inner_loss import Probe
    from ttt.evaluate.perplexity import SplitEvaluation
    from ttt.evaluate.run import TrainedRun
    from ttt.results.metrics import Split
    from ttt.results.record import RunFolder

MOST_PROBED = 2**20
"""Tokens that the inner-loss probe reads by default: token by token, it is much slower than an evaluation."""

HELP = """\
ttt-eval evaluates the newest checkpoint of a run: perplexity and loss by token
index, scores on tasks, or a probe.

usage: ttt-eval run=FOLDER [KEY=VALUE ...]

  ttt-eval run=runs/NAME split=test          on another split
  ttt-eval run=runs/NAME ctx=8k              at another context than trained
  ttt-eval run=runs/NAME data=local data.path=texts
                                             on another text, in its tokens
  ttt-eval run=runs/NAME probe=inner_loss    the inner loss of every token
                                             before and after its update
  ttt-eval run=runs/NAME probe=context_gain  nats gained on the same 256 tokens
                                             by the context before them
  ttt-eval run=runs/NAME probe=context_gain longest=8192
                                             on the tokens on which runs of
                                             context 8k are judged
  ttt-eval run=runs/NAME probe=copy          the loss of repeated text: has the
                                             run learned to copy?
  ttt-eval run=runs/NAME tasks=lambada_openai,piqa
                                             scores on tasks of
                                             lm-evaluation-harness
  ttt-eval run=runs/NAME probe=needle        answers about lines planted in long
                                             text, by depth and length
  ttt-eval run=runs/NAME step=500            the weights after 500 steps, kept
                                             by trainer.keep_every
  ttt-eval run=runs/NAME average=4           the mean of the weights of the last
                                             4 checkpoints
"""


def evaluate(config: EvalConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Evaluate one run and print its perplexity, its scores on tasks or the result of the probe.

    Raises:
        UserError: there is no such run, split, task, probe or device, or the run has no checkpoint.
        DivergedError: the model's numbers are not finite.
    """
    _check(config)
    from ttt.results.lock import HeldError, locked
    from ttt.results.record import RunFolder, read_record

    folder = RunFolder(Path(config.run))
    # Refuse a folder without a run before writing the lock there.
    read_record(folder.record)
    with one_line_on_sigterm(f"{folder.path}: the evaluation"), ExitStack() as lock:
        live = False
        try:
            lock.enter_context(locked(folder.path))
        except HeldError as error:
            live = True
            who = str(error).partition("; ")[0]
            print(f"warning: {who}; its newest checkpoint is read, the result printed and not stored", file=sys.stderr)
        if config.tasks:
            score_on_tasks(config, folder, live)
        else:
            _evaluate(config, folder, live)


def _check(config: EvalConfig) -> None:
    check_keys(config)
    check_tasks(config)
    if config.data is not None:
        if config.data.tokenizer is not None:
            allowed = "must be left out: the text is read in the run's tokens"
            raise bad_value("data.tokenizer", config.data.tokenizer, allowed)
        check_paths(config.data)
    _check_longest(config)
    if config.split == "all" and config.data is None:
        allowed = "the run's own data has training text; choose validation or test, or give another text by data="
        raise bad_value("split", "all", allowed)


def _check_longest(config: EvalConfig) -> None:
    longest = config.longest
    if longest is None:
        return
    if config.probe not in ("context_gain", "needle"):
        raise bad_value("longest", longest, "belongs to probe=context_gain and probe=needle; leave it out")
    if config.probe == "context_gain" and (longest < 512 or longest & (longest - 1)):
        raise bad_value("longest", longest, "must be a power of two, at least 512")


def _evaluate(config: EvalConfig, folder: RunFolder, live: bool) -> None:
    from ttt.data.windows import describe_windows
    from ttt.evaluate.inner_loss import probe_run
    from ttt.evaluate.run import evaluate_run, load_run
    from ttt.models.device import choose_device
    from ttt.results.checkpoints import Choice
    from ttt.results.inner_loss import per_dimension

    split = cast("Split", config.split or ("all" if config.data else "validation"))
    device = choose_device(config.device, "device")
    choice = Choice(config.step, config.average)
    run = load_run(folder, device, eval_tokens=config.eval_tokens, kernel=config.kernel, choice=choice)
    run = replace(_elsewhere(run, config, split), writable=not live)
    if config.probe == "inner_loss" and config.eval_tokens is None:
        run = replace(run, reading=replace(run.reading, eval_tokens=min(run.reading.eval_tokens, MOST_PROBED)))
    if run.outdated(split) and not live:
        _warn_of_older_weights(run)
    read = describe_windows(run.documents(split), split)
    if config.probe is None:
        _print_perplexity(run, split, evaluate_run(run, split), read)
    elif config.probe == "inner_loss":
        factor = per_dimension(run.record.content["config"])
        _print_inner_loss(run, read, probe_run(run, split), factor, stored=run.stores_probe(split))
    elif config.probe == "context_gain":
        _print_context_gain(run, split, config)
    elif config.probe == "needle":
        _print_needle(run, split, config)
    else:
        _print_copying(run, split)


def _elsewhere(run: TrainedRun, config: EvalConfig, split: Split) -> TrainedRun:
    """Return the run, to be evaluated at the context and on the text of the configuration."""
    from ttt.evaluate.elsewhere import at_other_context, on_other_text

    if config.ctx is not None:
        run = at_other_context(run, config.ctx)
    if config.data is not None:
        run = on_other_text(run, config.data, split == "all", config.eval_tokens)
    return run


def _warn_of_older_weights(run: TrainedRun) -> None:
    done = (
        f"the newest checkpoint is of step {run.step}, the run's results are of a later one ({run.record.steps} done)"
    )
    remedy = "this result is printed and not stored; ttt-train with ckpt=last trains the run to its end again"
    print(f"warning: {run.record.folder.path}: {done}; {remedy}", file=sys.stderr)


def _print_perplexity(run: TrainedRun, split: Split, evaluation: SplitEvaluation, read: str) -> None:
    from ttt.data.usage import describe_judged

    at = f" at {run.steps_in_words}" if run.weights or run.step != run.record.steps else ""
    reached = f"perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token){at}"
    answers = run.documents(split).answers is not None
    if answers:
        reached = f"{evaluation.accuracy:.1%} of the answers right, {reached.replace('token', 'answer')}"
    if run.elsewhere:
        text = f"{split} of data={run.documents(split).data}" if split != "all" else f"data={run.documents(split).data}"
        print(f"{run.record.folder.path}: {text} at ctx={context_name(run.reading.ctx)}: {reached}")
        if run.stores(split):
            print(run.record.folder.evaluation(run.evaluation_name(split)))
    else:
        print(f"{run.record.folder.path}: {split} {reached}")
    print(describe_judged(run.documents(split), evaluation.judged, evaluation.tokens), file=sys.stderr)
    print(f"loss by token index: mean of {evaluation.sequences} {read}", file=sys.stderr)
    bits = evaluation.bits_per_byte
    per_byte = "" if bits is None else f"{bits:.4f} bits per byte of text, "
    if not answers:
        print(f"{per_byte}{evaluation.accuracy:.1%} of the tokens were the most likely ones", file=sys.stderr)
    if small := little_data(split, evaluation.judged, evaluation.tokens):
        print(small, file=sys.stderr)


def _print_inner_loss(run: TrainedRun, read: str, probe: Probe, factor: float, stored: bool) -> None:
    from ttt.evaluate.inner_loss import describe

    folder = run.record.folder
    mean = f"mean over positions, heads and {probe.losses.sequences} {read}, at {run.steps_in_words}"
    print(f"{folder.path}: inner loss by layer (mean squared error per dimension), {mean}")
    print(describe(probe.losses, factor))
    if stored:
        print(folder.inner_loss)
    for subject, text in probe.warnings.items():
        print(f"warning: {subject}: {text}", file=sys.stderr)
    if probe.failure is not None:
        raise DivergedError(f"{folder.path}: {probe.failure}")


def _print_context_gain(run: TrainedRun, split: Split, config: EvalConfig) -> None:
    from ttt.evaluate.context_gain import describe, probe_context
    from ttt.results.context_gain import TARGETS

    gain = probe_context(run, split, config.longest, config.eval_tokens)
    windows = {row.document: row.windows for row in gain.losses}
    text = f"the last {TARGETS} tokens of {sum(windows.values())} windows of {len(windows)} {split} documents"
    print(f"{run.record.folder.path}: nats/token of {text}, at {run.steps_in_words}")
    print(describe(gain))
    if run.stores_probe(split):
        print(run.record.folder.context_gain)
    if gain.lonely:
        print("warning: the windows are of one document, so that there is no foreign context", file=sys.stderr)


def _print_needle(run: TrainedRun, split: Split, config: EvalConfig) -> None:
    from ttt.evaluate.needle import describe, probe_needle

    found = probe_needle(run, split, config.longest, config.eval_tokens)
    cases = sorted({row.cases for row in found})
    texts = f"{cases[0]}" if len(cases) == 1 else f"{cases[0]} to {cases[-1]}"
    where = f"in {texts} texts of {split} documents each, at {run.steps_in_words}"
    print(f"{run.record.folder.path}: right answers about planted lines, {where}; trained at ctx={run.reading.ctx}")
    print(describe(found))
    if run.stores_probe(split):
        print(run.record.folder.needle)


def _print_copying(run: TrainedRun, split: Split) -> None:
    from ttt.evaluate.copying import probe_copying

    losses = probe_copying(run, split)
    share = losses.repeated / losses.first
    measured = (
        f"{losses.repeated:.4f} nats/token on repeated text, {losses.first:.4f} on its first reading ({share:.0%})"
    )
    verdict = "copies" if share < COPIES_BELOW else "does not copy"
    print(f"{run.record.folder.path}: {measured}: the run {verdict}")
    if split == "validation" and run.stores_probe(split):
        run.record.write()


COMMAND = Command("eval", EvalConfig, evaluate, HELP)


def main() -> None:
    """Run ``ttt-eval``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
