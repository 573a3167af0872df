"""``ttt`` lists and runs the commands, and completes their words."""

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


def completed(script: str, line: str, folder: Path) -> list[str]:
    """Return what bash replaces the end of ``line`` with."""
    ask = f"{script}\nCOMP_LINE=$1 COMP_POINT=${{#1}}\n_ttt\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    # Outside a completion bash refuses compopt.
    shown = subprocess.run(["bash", "-c", f"compopt() {{ :; }}\n{ask}", "-", line], cwd=folder, capture_output=True)
    assert shown.stderr == b""
    return shown.stdout.decode().split()


@pytest.mark.slow
def test_bash_completes_commands_keys_options_and_folders(tmp_path: Path) -> None:
    script = completion.script()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    for line, replies in {
        "ttt tr": ["train"],
        "ttt-train model=ttt_": ["ttt_linear", "ttt_mlp"],
        "ttt train -m size=w64 model.mini": ["model.mini_batch_size="],
        "/bin/ttt-train data=py": ["pycode", "pyrepo", "pyrepo_4k"],
        "ttt-bench inner roun": ["rounds="],
        "ttt-bench la": ["latency"],
        "ttt-sweep plan sweep=books_": ["books_complete", "books_scaling"],
        "ttt-plot per": ["per_token"],
        "ttt-eval run=runs/m": ["runs/mine"],
        "ttt-eval run=": ["runs"],
        "ttt-runs --js": ["--json"],
    }.items():
        assert completed(script, line, tmp_path) == replies, line


def test_completion_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "script", lambda: "words\n")
    target, startup = tmp_path / "a folder" / "completion.bash", tmp_path / ".bashrc"
    startup.write_text("alias l=ls")
    for _ in range(2):
        lines = completion.install(target, startup)
    assert [line.partition(": ")[0] for line in lines] == [str(target), str(startup)]
    assert (target.read_text(), startup.read_text()) == ("words\n", f"alias l=ls\nsource '{target}'\n")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "script", lambda: "words\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(completion.UserError, match=r"file: cannot be written \("):
        completion.install(tmp_path / "file" / "completion.bash", tmp_path / ".bashrc")
    assert not (tmp_path / ".bashrc").exists()
