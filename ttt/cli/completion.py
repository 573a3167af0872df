"""``ttt completion``: let bash complete commands, keys, options and flags."""

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
from ttt.config.errors import UserError
from ttt.config.system import renamed_at_the_end

HELP = """\
ttt completion lets bash complete the words of all commands with the tab key: it
writes a script, and a line in ~/.bashrc that reads it. Run it again after an
update of the suite.

usage: ttt completion [--print]

  --print       print the script, and write nothing
"""

BASH = """\
# Completion of the commands of ttt-suite; `ttt completion` wrote this file.
_ttt() {
  local line=${COMP_LINE:0:COMP_POINT} current= words= reply start
  local -a typed
  read -ra typed <<< "$line"
  if [[ $line != *[[:space:]] ]]; then
    current=${typed[${#typed[@]}-1]}
    unset "typed[${#typed[@]}-1]"
  fi
  typed[0]=${typed[0]##*/}
  # ttt train is ttt-train
  if [[ ${typed[0]} == ttt && ${#typed[@]} -gt 1 ]]; then typed=("ttt-${typed[1]}" "${typed[@]:2}"); fi
  case "${typed[0]} ${typed[1]}" in
WORDS
  esac
  COMPREPLY=()
  while read -r reply; do
    if [[ $reply != *= || $reply != "$current" ]]; then COMPREPLY+=("$reply"); fi
  done < <(compgen -W "$words" -- "$current")
  # The value of any other key may be a file or folder.
  if [[ ${#COMPREPLY[@]} == 0 && $current == *=* ]]; then
    compopt -o filenames
    while read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -f -- "${current#*=}")
  elif [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
    # Bash replaces only what follows the last =.
    start=${current%"${current##*=}"}
    COMPREPLY=("${COMPREPLY[@]#"$start"}")
  fi
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -F _ttt PROGRAMS
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


MORE: dict[str, Callable[[], list[str]]] = {"ttt-sweep": _sweeps, "ttt-plot": _figures}
"""Program -> its names beside those in its help text."""


def script() -> str:
    """Return the script of completion for bash."""
    found = words()
    # A subcommand stands before its program, whose pattern matches it too.
    ordered = sorted(found.items(), key=lambda pair: " " not in pair[0])
    patterns = {name: shlex.quote(name) + ("" if " " in name else "\\ *") for name, _ in ordered}
    lines = "\n".join(f"    {patterns[name]}) words={shlex.quote(' '.join(choice))} ;;" for name, choice in ordered)
    programs = " ".join(name for name in found if " " not in name and name != "ttt-completion")
    return BASH.replace("WORDS", lines).replace("PROGRAMS", programs)


def install(target: Path, startup: Path) -> list[str]:
    """Write the script, and let ``startup`` read it; return a line about each file.

    Args:
        target: the script.
        startup: the file that bash reads when it starts, such as ``~/.bashrc``.

    Raises:
        UserError: one of them cannot be written.
    """
    read = f"source {shlex.quote(str(target))}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with renamed_at_the_end(target) as partial:
            partial.write_text(script(), encoding="utf-8")
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
    if given.names:
        raise UserError(f"{given.names[0]}: ttt completion takes no names; see ttt completion --help")
    if "--print" in given.flags:
        print(script(), end="")
    else:
        target = Path(user_data_dir("ttt-suite")) / "completion.bash"
        print("\n".join(install(target, Path.home() / ".bashrc")))


if __name__ == "__main__":
    main()
