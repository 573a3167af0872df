"""``ttt`` lists and runs the commands, and completes their words."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ttt.cli import completion, main
from ttt.config.assets import assets
from ttt.config.text_table import WIDTH


def test_every_program_is_a_command_of_ttt() -> None:
    scripts = tomllib.loads((assets() / "pyproject.toml").read_text())["project"]["scripts"]
    listed = {f"ttt-{name}": f"ttt.cli.{module}:main" for name, (module, _) in main.COMMANDS.items()}
    assert listed.pop("ttt-completion") == "ttt.cli.completion:main"
    assert scripts == {"ttt": "ttt.cli.main:main", **listed}


def test_ttt_alone_lists_every_command_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["ttt", *words])
        main.main()
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    lines = shown[0].splitlines()
    assert max(map(len, lines)) <= WIDTH
    for name, (_, line) in main.COMMANDS.items():
        assert [entry.split(maxsplit=1)[1] for entry in lines if entry.startswith(f"  {name} ")] == [line]


def test_a_command_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/ttt", "claims", "here"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err == "error: here: not of the form key=value; ttt-claims judges all claims\n"
    assert sys.argv == ["/bin/ttt-claims", "here"]


@pytest.mark.parametrize("words", [["trian"], ["trian", "seed=1"]], ids=" ".join)
def test_an_unknown_command_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt", *words])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err.startswith("error: trian: no such command; choose one of train, runs, ")


ASK = {
    # Outside a completion bash refuses compopt.
    "bash": """compopt() { :; }; source $1
COMP_LINE=$2 COMP_POINT=${#2}; _ttt; printf '%s\\n' "${COMPREPLY[@]}" """,
    "fish": "source $argv[1]; complete -C $argv[2]",
    # Outside a completion zsh has no builtins for it: these propose what begins with the current word.
    "zsh": """compdef() { :; }; source $1; words=(${(s: :)2}) key=
if [[ $2 == *' ' ]]; then words+=(''); fi
CURRENT=$#words PREFIX=$words[-1]
compadd() { shift $@[(i)--]; local -a fit=(${(M)@:#$PREFIX*}); (( $#fit )) && print -l -- $fit; }
compset() { [[ $PREFIX == *=* ]] && key=${PREFIX%%\\=*}= PREFIX=${PREFIX#*=}; }
_files() { local file; for file in ${~PREFIX}*(N); do print -- $key$file; done; }
_ttt || true""",
}
"""Shell -> a program that prints what it proposes for the script and the line that are its arguments."""

COMPLETIONS = {
    "ttt tr": ["train"],
    "ttt-train model=ttt_": ["model=ttt_linear", "model=ttt_mlp"],
    "ttt train -m size=w64 model.mini": ["model.mini_batch_size="],
    "/bin/ttt-train data=py": ["data=pycode", "data=pyrepo", "data=pyrepo_4k"],
    "ttt-bench inner roun": ["rounds="],
    "ttt-bench la": ["latency"],
    "ttt-sweep plan sweep=books_": ["sweep=books_complete", "sweep=books_scaling"],
    "ttt-plot per": ["per_token"],
    "ttt-eval run=runs/m": ["run=runs/mine"],
    "ttt-eval run=": ["run=runs"],
    "ttt-runs --js": ["--json"],
    "ttt completion z": ["zsh"],
}
"""A line up to the tab key -> the words that may stand at its end."""


@pytest.mark.slow
@pytest.mark.parametrize("shell", [name for name in completion.SHELLS if shutil.which(name)])
def test_a_shell_completes_commands_keys_options_and_folders(shell: str, tmp_path: Path) -> None:
    """.ci/run installs the shells; without one its case is absent."""
    script = tmp_path / "script"
    script.write_text(completion.script(shell))
    (tmp_path / "here" / "runs" / "mine").mkdir(parents=True)
    flags = {
        "bash": ["--norc", "-c", ASK[shell], "-"],
        "fish": ["-N", "-c", ASK[shell]],
        "zsh": ["-fc", ASK[shell], "-"],
    }
    for line, replies in COMPLETIONS.items():
        command = [shell, *flags[shell], str(script), line]
        shown = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
        # Bash replaces what follows the = alone.
        wanted = [reply.partition("=")[2] or reply for reply in replies] if shell == "bash" else replies
        assert shown.stderr == ""
        assert [reply.rstrip("/") for reply in shown.stdout.split()] == wanted, line


@pytest.mark.parametrize(
    ("words", "own", "shell"),
    [
        ([], "/usr/bin/zsh", "zsh"),
        (["fish"], "/bin/bash", "fish"),
        ([], "/bin/tcsh", ""),
        ([], "", ""),
        (["csh"], "", ""),
    ],
)
def test_the_shell_is_the_one_named_or_the_users(
    words: list[str],
    own: str,
    shell: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"HOME": tmp_path, "XDG_DATA_HOME": tmp_path, "SHELL": own, "ZDOTDIR": tmp_path / "z"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(completion, "words", lambda: {"ttt": ["train"]})
    monkeypatch.setattr(sys, "argv", ["ttt-completion", *words])
    if not shell:
        with pytest.raises(SystemExit, match="2"):
            completion.main()
        given = words[0] if words else f"SHELL={own}"
        line = f"error: {given}: no such shell; choose one of bash, fish, zsh: ttt completion bash\n"
        assert capsys.readouterr() == ("", line)
        return
    completion.main()
    startup = {"zsh": tmp_path / "z" / ".zshrc", "fish": tmp_path / ".config/fish/conf.d/ttt-suite.fish"}[shell]
    target = tmp_path / "ttt-suite" / f"completion.{shell}"
    assert startup.read_text() == f"source {target}\n"
    assert f"`ttt completion {shell}` wrote this file" in target.read_text()


def test_completion_is_installed_once(tmp_path: Path) -> None:
    target, startup = tmp_path / "a folder" / "completion.bash", tmp_path / ".bashrc"
    startup.write_text("alias l=ls")
    for _ in range(2):
        lines = completion.install("words\n", target, startup)
    assert [line.partition(": ")[0] for line in lines] == [str(target), str(startup)]
    assert (target.read_text(), startup.read_text()) == ("words\n", f"alias l=ls\nsource '{target}'\n")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(completion.UserError, match=r"file: cannot be written \("):
        completion.install("words\n", tmp_path / "file" / "completion.bash", tmp_path / ".bashrc")
    assert not (tmp_path / ".bashrc").exists()
