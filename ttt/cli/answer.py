"""What all commands do alike: ``--version``, ``--help``, a supported torch, and errors of one line."""

from collections.abc import Callable

from ttt.cli.errors import exit_with_one_line
from ttt.cli.terminal import COMMANDS, show
from ttt.config.errors import UserError
from ttt.config.supported import declared, unsupported_torch

HELP_FLAGS = {"-h", "--help"}


def answer(words: list[str], help_text: Callable[[], str], act: Callable[[list[str]], None]) -> None:
    """Print the version or the help if the command line asks for it, otherwise act.

    Errors end the process: a user's mistake with one line and code 2, any other with a traceback.

    Args:
        words: the command line, without the command.
        help_text: returns the help.
        act: does the work.
    """
    with exit_with_one_line():
        if "--version" in words:
            print(f"ttt-suite {declared()[0]}")
        elif HELP_FLAGS & set(words):
            show(help_text(), COMMANDS)
        else:
            if problem := unsupported_torch():
                raise UserError(problem)
            act(words)
