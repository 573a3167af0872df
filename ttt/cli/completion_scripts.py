"""The scripts with which bash, fish and zsh complete the words of all commands.

Each knows the words by program and subcommand, and offers files and folders behind a key without words of its own.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Words = Mapping[str, Sequence[str]]
"""Program, or program and subcommand -> the words that may follow it."""

BASH = """\
# Completion of the commands of ttt-suite; `ttt completion bash` wrote this file.
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

ZSH = """\
# Completion of the commands of ttt-suite; `ttt completion zsh` wrote this file.
_ttt() {
  local choice= added=1
  local -a typed found
  typed=("${(@)words[1,CURRENT-1]}")
  typed[1]=${typed[1]:t}
  # ttt train is ttt-train
  if [[ $typed[1] == ttt && $#typed -gt 1 ]]; then typed=("ttt-$typed[2]" "${(@)typed[3,-1]}"); fi
  case "$typed[1] $typed[2]" in
WORDS
  esac
  found=(${=choice})
  # A key is not followed by a space, and a whole one is no proposal.
  compadd -S '' -- ${${(M)found:#*=}:#$PREFIX} && added=0
  compadd -- ${found:#*=} && added=0
  # The value of any other key may be a file or folder.
  if (( added )) && compset -P '*='; then _files && added=0; fi
  return added
}
if (( ! $+functions[compdef] )); then autoload -Uz compinit && compinit -i; fi
compdef _ttt PROGRAMS
"""

FISH = """\
# Completion of the commands of ttt-suite; `ttt completion fish` wrote this file.
function __ttt_words
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set typed[1] (string replace -r '.*/' '' -- $typed[1])
    # ttt train is ttt-train
    if test $typed[1] = ttt; and set -q typed[2]
        set -e typed[1]
        set typed[1] ttt-$typed[1]
    end
    switch "$typed[1] $typed[2]"
WORDS
    end | string match -v -- "$current" # a whole word is no proposal
end
# The value of a key without words of its own may be a file or folder.
function __ttt_takes_a_path
    set -l current (commandline -ct)
    string match -q '*=*' -- $current; and not __ttt_words | string match -q -- "$current*"
end
for program in PROGRAMS
    complete -c $program -f -a '(__ttt_words)'
    complete -c $program -n __ttt_takes_a_path -F
end
"""


@dataclass(frozen=True)
class Shell:
    """How a shell completes: its script, with ``WORDS`` and ``PROGRAMS``, and a case of ``WORDS``."""

    script: str
    case: Callable[[str, str], str]

    def with_words(self, words: Words) -> str:
        """Return the script for these words."""
        # A subcommand stands before its program, whose pattern matches it too.
        ordered = sorted(words.items(), key=lambda pair: " " not in pair[0])
        cases = "\n".join(f"    {self.case(name, ' '.join(choice))}" for name, choice in ordered)
        programs = " ".join(name for name in words if " " not in name and name != "ttt-completion")
        return self.script.replace("WORDS", cases).replace("PROGRAMS", programs)


def _case_of(variable: str) -> Callable[[str, str], str]:
    def case(name: str, choice: str) -> str:
        pattern = shlex.quote(name) + ("" if " " in name else "\\ *")
        return f"{pattern}) {variable}={shlex.quote(choice)} ;;"

    return case


def _fish_case(name: str, choice: str) -> str:
    pattern = shlex.quote(name if " " in name else f"{name} *")
    return f"case {pattern}; string split ' ' -- {shlex.quote(choice)}"


SHELLS = {
    "bash": Shell(BASH, _case_of("words")),
    "fish": Shell(FISH, _fish_case),
    "zsh": Shell(ZSH, _case_of("choice")),
}
"""Name of a shell -> how it completes."""
