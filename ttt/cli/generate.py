"""``ttt-generate``: continue a prompt with the model of a trained run."""

import sys
from functools import partial
from pathlib import Path

from ttt.cli.command import Command
from ttt.config.errors import bad_value
from ttt.config.generation import GenerateConfig
from ttt.config.keys import check_keys
from ttt.results.record import RunFolder, read_record

HELP = """\
ttt-generate continues a prompt, token by token, with the newest checkpoint of a
run.

usage: ttt-generate run=FOLDER [KEY=VALUE ...]

  ttt-generate run=runs/NAME prompt="def main("

The text goes to standard output; the number of CPU threads and the speed of
reading and writing go to standard error.
"""


def generate(config: GenerateConfig, overrides: list[str]) -> None:  # noqa: ARG001 - as every command
    """Print the prompt and its continuation.

    Raises:
        UserError: a value is out of range, there is no such run or device, or the run has no checkpoint.
        DivergedError: the model's logits are not finite.
    """
    check_keys(config)
    try:
        config.prompt.encode()
    except UnicodeEncodeError:
        raise bad_value("prompt", ascii(config.prompt), "is not text in UTF-8") from None
    folder = RunFolder(Path(config.run))
    # A folder without a run is reported before torch is imported.
    read_record(folder.record)
    from ttt.evaluate.generate import Sampling, generate_text
    from ttt.evaluate.run import load_run
    from ttt.evaluate.threads import set_threads
    from ttt.models.device import choose_device

    run = load_run(folder, choose_device(config.device, "device"), kernel=config.kernel)
    if run.reading.device.type == "cpu":
        print(set_threads(run.model, run.record.content, config.threads), file=sys.stderr)
    sampling = Sampling(config.temperature, config.top_k, config.seed)
    show = partial(print, end="", flush=True)
    show(config.prompt)
    speed = generate_text(run, config.prompt, config.tokens, sampling, show)
    print()
    print(speed, file=sys.stderr)


COMMAND = Command("generate", GenerateConfig, generate, HELP, texts=("prompt",))


def main() -> None:
    """Run ``ttt-generate``."""
    COMMAND.main(sys.argv[1:])


if __name__ == "__main__":
    main()
