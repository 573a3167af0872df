"""``ttt``: list the commands, or run one."""

import sys
from importlib import import_module
from pathlib import Path

from ttt.cli.answer import answer
from ttt.cli.help import columns
from ttt.config.errors import UserError

COMMANDS = {
    "train": ("train", "train a language model, evaluate it and write its run folder"),
    "runs": ("runs", "list run folders, look at one, compare two, remove"),
    "eval": ("eval", "evaluate a run on another split, context or text, or probe it"),
    "generate": ("generate", "sample text from a run"),
    "plot": ("plot", "draw figures from runs"),
    "claims": ("claims", "compare runs with the paper's claims"),
    "sweep": ("sweep.main", "plan, submit and watch many runs, here or on a cluster"),
    "data": ("data", "prepare data and show its content"),
    "bench": ("bench", "measure time and memory of layers, models and kernels"),
    "export": ("export", "write a run's model for other programs"),
    "import": ("importing", "make a run of the authors' released weights"),
    "completion": ("completion", "let bash, fish or zsh complete the words of all commands"),
}
"""Name -> module of ``ttt.cli``, and what the command does."""

HELP = """\
ttt trains, measures and compares models with TTT layers.

usage: ttt COMMAND [ARGUMENT ...]

{commands}

ttt COMMAND --help explains a command; --version prints the version. Each but
completion is also a program of its own: ttt-train is the same as ttt train."""


def help_text() -> str:
    """Return the list of commands."""
    return HELP.format(commands=columns({name: line for name, (_, line) in COMMANDS.items()}))


def main() -> None:
    """Run ``ttt``: the command that the first word names, with the others."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        # Lightning starts further processes of a run from the path of the program.
        sys.argv = [str(Path(sys.argv[0]).with_name(f"ttt-{name}")), *rest]
        import_module(f"ttt.cli.{COMMANDS[name][0]}").main()
    else:
        answer([name, *rest], help_text, _refuse)


def _refuse(words: list[str]) -> None:
    raise UserError(f"{words[0]}: no such command; choose one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
