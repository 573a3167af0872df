"""``ttt-eval``: evaluates a trained run again, on another split or on more text."""

import sys
from pathlib import Path
from typing import cast

from ttt.cli.compose import run_with_config
from ttt.cli.help import print_help_if_asked
from ttt.config.errors import bad_value
from ttt.config.schema import EvalConfig

HELP = """\
ttt-eval evaluates the newest checkpoint of a run: perplexity, and the loss by token index.

usage: ttt-eval run=FOLDER [KEY=VALUE ...]

  run=FOLDER          folder of a run of ttt-train; the results go into its record and its table
  split=validation    or test
  eval_tokens=131072  most tokens to read for each measure (default: as in the run's configuration)
  device=auto         cpu, cuda or mps
"""


def main() -> None:
    """Entry point of ``ttt-eval``."""
    print_help_if_asked(lambda: HELP)
    run_with_config("eval", EvalConfig, evaluate)


def evaluate(config: EvalConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Evaluates one run and prints its perplexity.

    Raises:
        UserError: no such run, split or device, or a run without a checkpoint.
    """
    allowed = ("validation", "test")
    if config.split not in allowed:
        raise bad_value("split", config.split, f"choose one of {', '.join(allowed)}")
    if config.eval_tokens is not None and config.eval_tokens < 1:
        raise bad_value("eval_tokens", config.eval_tokens, "must be at least 1")
    from ttt.evaluate.run import evaluate_run
    from ttt.results.metrics import Split
    from ttt.results.record import RunFolder
    from ttt.train.device import choose_device

    folder = RunFolder(Path(config.run))
    evaluation = evaluate_run(
        folder, cast(Split, config.split), choose_device(config.device, "device"), config.eval_tokens
    )
    print(f"{folder.path}: {config.split} perplexity {evaluation.perplexity:.2f} ({evaluation.loss:.4f} nats/token)")
    print(f"loss by token index: mean of {evaluation.documents} documents read from their start", file=sys.stderr)


if __name__ == "__main__":
    main()
