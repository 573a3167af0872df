"""``ttt-generate``: continue a prompt with the model of a trained run."""

import sys
from functools import partial
from pathlib import Path

from ttt.cli.compose import run_with_config
from ttt.cli.help import print_help_if_asked
from ttt.config.errors import bad_value
from ttt.config.schema import GenerateConfig

HELP = """\
ttt-generate continues a prompt with the newest checkpoint of a run, token by token.

usage: ttt-generate run=FOLDER [KEY=VALUE ...]

  run=FOLDER            folder of a run of ttt-train
  prompt="def main("    text to continue (default: the start of a document)
  tokens=200            most tokens to write; the end of the document may come earlier
  temperature=0.8       below 1 prefers likely tokens; 0 always takes the likeliest
  top_k=40              draw from this many of the likeliest tokens; null: from all
  seed=0                seed of the random draws
  device=auto           cpu, cuda or mps

The text goes to standard output, the speed of reading and writing to standard error.
"""


def main() -> None:
    """Entry point of ``ttt-generate``."""
    print_help_if_asked(lambda: HELP)
    run_with_config("generate", GenerateConfig, generate, as_typed=("prompt",))


def generate(config: GenerateConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Print the prompt and the model's continuation.

    Raises:
        UserError: a value is out of range, there is no such run or device, or the run has no checkpoint.
        DivergedError: the model's logits are not finite.
    """
    check(config)
    from ttt.evaluate.generate import Sampling, generate_text
    from ttt.evaluate.run import load_run
    from ttt.results.record import RunFolder
    from ttt.train.device import choose_device

    run = load_run(RunFolder(Path(config.run)), choose_device(config.device, "device"))
    sampling = Sampling(config.temperature, config.top_k, config.seed)
    show = partial(print, end="", flush=True)
    show(config.prompt)
    speed = generate_text(run, config.prompt, config.tokens, sampling, show)
    print()
    print(speed, file=sys.stderr)


def check(config: GenerateConfig) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        UserError: a value is out of range.
    """
    if config.tokens < 1:
        raise bad_value("tokens", config.tokens, "must be at least 1")
    if not config.temperature >= 0:
        raise bad_value("temperature", config.temperature, "must be at least 0")
    if config.top_k is not None and config.top_k < 1:
        raise bad_value("top_k", config.top_k, "must be at least 1, or null for all tokens")
    if config.seed < 0:
        raise bad_value("seed", config.seed, "must be at least 0")
    try:
        config.prompt.encode()
    except UnicodeEncodeError:
        raise bad_value("prompt", ascii(config.prompt), "is not text in UTF-8") from None


if __name__ == "__main__":
    main()
