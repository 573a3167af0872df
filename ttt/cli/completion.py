"""``ttt completion``: let bash, fish and zsh complete commands, keys, options and flags."""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from platformdirs import user_data_dir

from ttt.cli.answer import answer
from ttt.cli.arguments import parse
from ttt.cli.command import Command
from ttt.cli.completion_scripts import SHELLS
from ttt.config.errors import UserError
from ttt.config.system import renamed_at_the_end

HELP = """\
ttt completion lets your shell complete the words of all commands with the tab
key: it writes a script, and a line that reads it in a file that the shell reads
when it starts. Run it again after an update of the suite.

usage: ttt completion [bash|fish|zsh] [--print]

  bash, fish, zsh   the shell; yours, as SHELL names it, if none is given
  --print           print the script, and write nothing
"""

KEY = re.compile(r"^  (\+?[a-z][a-z_.]*=)", re.MULTILINE)
"""A key, at the start of its line in a help text."""

GROUP = re.compile(r"^  (\+?[a-z]+=)\S*\n((?:    .*\n)+)", re.MULTILINE)
"""A group and its options in a help text."""

OPTION = re.compile(r"^    (\S+)", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def words_of_help(text: str) -> list[str]:
    """Return the words that a help text explains: flags, keys with ``=``, and groups with each of their options."""
    chosen = [f"{name}{option}" for name, options in GROUP.findall(text) for option in OPTION.findall(options)]
    return sorted({*KEY.findall(text), *FLAG.findall(text), *chosen, "--help", "--version"})


def words() -> dict[str, list[str]]:
    """Return program, or program and subcommand -> the words that may follow it.

    Raises:
        UserError: a file of a layer, backbone or source that cannot be read.
    """
    from ttt.cli.main import COMMANDS

    found = {"ttt": [*COMMANDS, "--help", "--version"]}
    for name, (module, _) in COMMANDS.items():
        found |= dict(_of_module(f"ttt-{name}", import_module(f"ttt.cli.{module}")))
    return found


def _of_module(program: str, module: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """Yield the words of a program, and of each of its subcommands that has keys of its own."""
    command, commands = getattr(module, "COMMAND", None), getattr(module, "COMMANDS", {})
    if isinstance(command, Command):
        yield program, words_of_help(command.help_text([]))
        return
    for name, part in commands.items():
        if isinstance(part, Command):
            yield f"{program} {name}", words_of_help(part.help_text([]))
    more = MORE.get(program, list)()
    yield program, [*commands, *more, *words_of_help(_help(module))]


def _help(module: ModuleType) -> str:
    return str(module.help_text() if hasattr(module, "help_text") else module.HELP)


def _sweeps() -> list[str]:
    from ttt.cli.sweep.commands import COMMANDS
    from ttt.cli.sweep.files import SCALES, sweep_names
    from ttt.config.assets import assets

    names = {f"sweep={name}" for scale in SCALES for name in sweep_names(scale)}
    clusters = {f"slurm={path.stem}" for path in (assets() / "slurm").glob("*.yaml")}
    return [*COMMANDS, *sorted(names | clusters)]


def _figures() -> list[str]:
    from ttt.cli.compare import COMPARE
    from ttt.cli.plot import REPORT
    from ttt.plots.registry import figures

    return [COMPARE, REPORT, *figures()]


MORE: dict[str, Callable[[], list[str]]] = {
    "ttt-sweep": _sweeps,
    "ttt-plot": _figures,
    "ttt-completion": lambda: list(SHELLS),
}
"""Program -> its names beside those in its help text."""


def script(shell: str) -> str:
    """Return the script of completion for a shell of ``SHELLS``."""
    return SHELLS[shell].with_words(words())


def startup_file(shell: str) -> Path:
    """Return the file that a shell reads when it starts."""
    if shell == "fish":
        settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(settings, "fish", "conf.d", "ttt-suite.fish")
    if shell == "zsh":
        return Path(os.environ.get("ZDOTDIR") or Path.home(), ".zshrc")
    return Path.home() / ".bashrc"


def install(text: str, target: Path, startup: Path) -> list[str]:
    """Write a script, and let ``startup`` read it; return a line about each file.

    Args:
        text: the script.
        target: its file.
        startup: the file that the shell reads when it starts.

    Raises:
        UserError: one of them cannot be written.
    """
    read = f"source {shlex.quote(str(target))}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with renamed_at_the_end(target) as partial:
            partial.write_text(text, encoding="utf-8")
        startup.parent.mkdir(parents=True, exist_ok=True)
        before = startup.read_text(encoding="utf-8") if startup.exists() else ""
        if read not in before.splitlines():
            with startup.open("a", encoding="utf-8") as end:
                end.write("\n" * (before != "" and not before.endswith("\n")) + f"{read}\n")
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be written ({error.strerror}); see ttt completion --print"
        ) from error
    return [f"{target}: completes the words of all commands", f"{startup}: reads it; open a new terminal"]


def main() -> None:
    """Run ``ttt completion``."""
    answer(sys.argv[1:], lambda: HELP, _run)


def _run(arguments: list[str]) -> None:
    given = parse(arguments, {}, ("--print",))
    shell = _chosen(given.names)
    if "--print" in given.flags:
        print(script(shell), end="")
    else:
        target = Path(user_data_dir("ttt-suite")) / f"completion.{shell}"
        print("\n".join(install(script(shell), target, startup_file(shell))))


def _chosen(names: list[str]) -> str:
    """Return the shell that the command line names, or the user's."""
    own = os.environ.get("SHELL", "")
    shell = names[0] if names else Path(own).name
    if len(names) > 1:
        raise UserError(f"{names[1]}: ttt completion takes one shell; see ttt completion --help")
    if shell not in SHELLS:
        given = f"{shell}:" if names else f"SHELL={own}:"
        raise UserError(f"{given} no such shell; choose one of {', '.join(SHELLS)}: ttt completion bash")
    return shell


if __name__ == "__main__":
    main()
