"""``ttt-eval``: evaluates a trained run again, on another split or on more text, or looks into its inner loops."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ttt.cli.compose import run_with_config
from ttt.cli.help import print_help_if_asked
from ttt.config.errors import RunError, bad_value
from ttt.config.schema import EvalConfig

if TYPE_CHECKING:
    from ttt.evaluate.inner_loss import Probe
    from ttt.evaluate.perplexity import SplitEvaluation
    from ttt.evaluate.reset import ResetLosses
    from ttt.results.record import RunFolder

HELP = """\
ttt-eval evaluates the newest checkpoint of a run: perplexity, and the loss by token index.

usage: ttt-eval run=FOLDER [KEY=VALUE ...]

  run=FOLDER          folder of a run of ttt-train; the results go into its record and its table
  split=validation    or test
  probe=inner_loss    look into the inner loops instead: the loss of every token before and after its update
  probe=reset reset_every=512  what context is worth: the same tokens with it forgotten every 512 of them
  eval_tokens=131072  most tokens to read for each measure (default: as in the run's configuration)
  device=auto         cpu, cuda or mps
"""


def main() -> None:
    """Entry point of ``ttt-eval``."""
    print_help_if_asked(lambda: HELP)
    run_with_config("eval", EvalConfig, evaluate)


def evaluate(config: EvalConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Evaluates one run and prints its perplexity, or what the probe found.

    Raises:
        UserError: no such run, split, probe or device, a run without a checkpoint, or one that another process writes.
        RunError: the model's numbers are not finite.
    """
    allowed = ("validation", "test")
    if config.split not in allowed:
        raise bad_value("split", config.split, f"choose one of {', '.join(allowed)}")
    if config.probe not in (None, "inner_loss", "reset"):
        raise bad_value("probe", config.probe, "choose inner_loss, reset or null")
    if (config.probe == "reset") != (config.reset_every is not None):
        raise bad_value("reset_every", config.reset_every, "goes with probe=reset, which needs a number of tokens")
    if config.eval_tokens is not None and config.eval_tokens < 1:
        raise bad_value("eval_tokens", config.eval_tokens, "must be at least 1")
    from ttt.evaluate.inner_loss import probe_run
    from ttt.evaluate.reset import probe_resets
    from ttt.evaluate.run import evaluate_run
    from ttt.models.device import choose_device
    from ttt.results.lock import holding
    from ttt.results.metrics import Split
    from ttt.results.record import RunFolder, read_record

    folder = RunFolder(Path(config.run))
    # A folder without a run is refused before anything is written there.
    read_record(folder.record)
    asked = (folder, cast(Split, config.split), choose_device(config.device, "device"))
    with holding(folder.path):
        if config.probe is None:
            _tell_perplexity(folder, config.split, evaluate_run(*asked, config.eval_tokens))
        elif config.reset_every is None:
            _tell_inner_loss(folder, config.split, probe_run(*asked, config.eval_tokens))
        else:
            _tell_resets(folder, config.split, probe_resets(*asked, config.reset_every, config.eval_tokens))


def _tell_perplexity(folder: RunFolder, split: str, evaluation: SplitEvaluation) -> None:
    print(f"{folder.path}: {split} perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token)")
    print(f"loss by token index: mean of {evaluation.documents} documents read from their start", file=sys.stderr)


def _tell_inner_loss(folder: RunFolder, split: str, probe: Probe) -> None:
    from ttt.evaluate.inner_loss import describe

    read = f"{probe.losses.sequences} {split} documents read from their start, at step {probe.step}"
    print(f"{folder.path}: inner loss by layer, mean over positions, heads and {read}")
    print(describe(probe.losses))
    print(folder.inner_loss)
    for subject, text in probe.warnings.items():
        print(f"warning: {subject}: {text}", file=sys.stderr)
    if probe.failure is not None:
        raise RunError(f"{folder.path}: {probe.failure}")


def _tell_resets(folder: RunFolder, split: str, losses: ResetLosses) -> None:
    documents = len(losses.whole)
    print(
        f"{folder.path}: context beyond the last {losses.every} tokens gains {losses.gain:+.4f} nats/token, standard "
        f"error {losses.gain_error:.4f}, over {documents} {split} documents read from their start"
    )


if __name__ == "__main__":
    main()
