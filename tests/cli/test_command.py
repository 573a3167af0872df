"""Arguments translated for Hydra, and help from the schema."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ttt.cli import bench, data, export, generate, importing, train
from ttt.cli import eval as evaluate
from ttt.cli.arguments import parse
from ttt.cli.command import Command
from ttt.cli.compose import register_schemas
from ttt.cli.errors import by_number
from ttt.cli.help import columns, describe_command, describe_group
from ttt.config.errors import UserError
from ttt.config.keys import free_text_keys
from ttt.config.schema import TrainConfig
from ttt.config.text_table import WIDTH

COMMANDS = [
    *(module.COMMAND for module in (train, evaluate, export, importing, generate)),
    *data.COMMANDS.values(),
    *bench.COMMANDS.values(),
]


@pytest.mark.parametrize(
    ("command", "arguments", "overrides"),
    [
        (train.COMMAND, ["from=runs/a", "ctx=512,1k"], ["parent.run=runs/a", "ctx='512',1k"]),
        (
            train.COMMAND,
            ["--run", "runs/a", "--overwrite", "--cfg", "job"],
            ["run=runs/a", "overwrite=true", "--cfg", "job"],
        ),
        (export.COMMAND, ["--released", "--out=b"], ["released=true", "out=b"]),
        (bench.COMMANDS["inner"], ["tokens=512,2048", "kernels=[dual]"], ["tokens=[512,2048]", "kernels=[dual]"]),
        (bench.COMMANDS["model"], ["model=ttt_mlp,mamba", "width=64"], ["models=[ttt_mlp,mamba]", "width=64"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_arguments_become_overrides(command: Command, arguments: list[str], overrides: list[str]) -> None:
    assert command.for_hydra(arguments) == (overrides, {})


TYPED = [
    "données/文字",
    "a=b",
    "two words",
    "v (1)",
    "v [1]",
    "a,b",
    "[a]",
    "{a}",
    "it's",
    'say "a"',
    "007",
    "1e5",
    "nan",
]
TYPED += ["true", "-x", "a\\\\b", "a:b", "range(0,3)", "~x,y/z", "*.txt", "src/**/*.py", "", "a#b", "50%"]


@pytest.mark.parametrize("value", TYPED)
def test_free_text_is_taken_as_typed(value: str) -> None:
    keys = ("data.path", "data.tokenizer", "data.cache_dir", "data.hub", "data.column", "run", "runs", "from")
    overrides, _ = train.COMMAND.for_hydra([f"{key}={value}" for key in keys])
    parser = OverridesParser.create()
    assert [override.value() for override in parser.parse_overrides(overrides)] == [value] * len(keys)


def test_free_text_is_composed_as_typed(configure: Callable[..., TrainConfig]) -> None:
    for value in ("v [1], a=b", "it's {a}", "007"):
        overrides, _ = train.COMMAND.for_hydra([f"{key}={value}" for key in ("data.path", "data.cache_dir", "run")])
        config = configure(*overrides)
        assert (config.data.path, config.data.cache_dir, config.run) == (value, value, value)


def test_quotes_null_and_the_home_folder_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    typed = ["data.path='a b'", "data.tokenizer=null", "run=~/a", "from=~/b c", "data.cache_dir=~/d"]
    overrides, _ = train.COMMAND.for_hydra(typed)
    read = [override.value() for override in OverridesParser.create().parse_overrides(overrides)]
    assert list(map(str, read)) == ["a b", "None", "/home/me/a", "/home/me/b c", "~/d"]
    assert parse(["runs=~/a", "out=~nobody-of-this-name/b"], {"runs": "FOLDER", "out": "FILE"}).values == {
        "runs": "/home/me/a",
        "out": "~nobody-of-this-name/b",
    }


def test_a_folder_with_an_equals_sign_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("run (1), [ä]=b", "runs=old"):
        (tmp_path / folder).mkdir()
    parsed = parse(["run (1), [ä]=b", f"{tmp_path}/runs=old", "runs=old"], {"runs": "FOLDER"})
    assert parsed.names == ["run (1), [ä]=b", f"{tmp_path}/runs=old"]
    assert parsed.values == {"runs": "old"}
    with pytest.raises(UserError, match=r"^seed=b: no such key"):
        parse(["seed=b"], {"runs": "FOLDER"})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.config_name)
def test_every_key_that_names_a_folder_or_file_is_free_text(command: Command) -> None:
    free = free_text_keys(command.schema)
    for field in fields(command.schema):
        if re.match(r"(?:folder|file)\b", field.metadata["help"]):
            assert field.name in free


@pytest.mark.parametrize("launcher", ["submitit_slurm", "basic"])
def test_hydras_slurm_launcher_passes_on_nothing_of_the_job_that_starts_it(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setattr("hydra.main", lambda **_: lambda _job: lambda: seen.append(dict(os.environ)))
    monkeypatch.setattr(sys, "argv", ["ttt-train"])
    train.COMMAND.main(["-m", f"hydra/launcher={launcher}", "seed=0,1"])
    assert ("SLURM_MEM_PER_CPU" in seen[0]) == (launcher == "basic")
    assert seen[0]["SLURM_CONF"] == "/etc/slurm.conf"
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


def test_texts_bypass_hydra() -> None:
    assert generate.COMMAND.for_hydra(["prompt={a,b}=1", "run=a"]) == (["run=a"], {"prompt": "{a,b}=1"})


@pytest.mark.parametrize(
    ("command", "argument", "new"),
    [
        (train.COMMAND, "run_dir=a", "run=a"),
        (train.COMMAND, "runs_dir=a", "runs=a"),
        (evaluate.COMMAND, "run_dir=a", "run=a"),
        (bench.COMMANDS["latency"], "results=a", "runs=a"),
        (bench.COMMANDS["kernels"], "results=a", "runs=a"),
        (bench.COMMANDS["inner"], "forms=dual", "kernels=dual"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_of_an_earlier_version_is_refused(command: Command, argument: str, new: str) -> None:
    with pytest.raises(UserError, match=f"^{argument}: this key is now called .*; write {new}$"):
        command.for_hydra([argument])


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.config_name)
def test_help_has_a_line_for_every_key(command: Command) -> None:
    register_schemas()
    shown = describe_command(command.help, command.config_name, [], command.more_groups, command.aliases)
    assert shown.startswith(command.help.rstrip())
    names = {key: alias for alias, key in command.aliases.items()}
    for field in fields(command.schema):
        if field.name != "parent":
            assert f"\n  {names.get(field.name, field.name)}" in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_help_has_the_values_of_the_command_line() -> None:
    register_schemas()
    shown = describe_command("", "train", ["model=mamba", "size=125m"], (), {"from": "parent.run"})
    for line in ("  model=mamba\n", "  model.state_size=16 ", "  size.width=768 ", "  from=null "):
        assert line in shown
    assert "model.mini_batch_size" not in shown


def test_contexts_are_listed_by_their_lengths() -> None:
    options = [line.split()[0] for line in describe_group("ctx").splitlines()[1:]]
    assert options == ["256", "512", "1k", "2k", "4k", "8k", "16k", "32k"]


def test_columns_are_wrapped() -> None:
    lines = columns({"a=1": "word " * 20, "longer=2": ""}).splitlines()
    assert [line.index("word") for line in lines[:2]] == [12, 12]
    assert lines[2] == "  longer=2"


@pytest.mark.parametrize("arguments", [["-m", "seed=0,1", "--cfg", "job"], ["--cfg", "job", "--info"]], ids=" ".join)
def test_flags_that_exclude_each_other_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt-train", *arguments])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    error = capsys.readouterr().err
    assert re.match(r"error: --\w+ and --\w+: give one of them; --cfg job shows a single configuration\n$", error)


CLOSED = {
    "help": "with exit_with_one_line():\n    print('help')\n    raise SystemExit(0)",
    "ttt-train --help": "sys.argv[1:] = ['--help']\nmain()",
    "ttt-train --cfg job": "sys.argv[1:] = ['--cfg', 'job']\nmain()",
}


@pytest.mark.parametrize("name", ["help", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CLOSED)[1:])])
def test_a_reader_that_closes_the_pipe_gets_no_traceback(name: str) -> None:
    imported = "ttt.cli.errors import exit_with_one_line" if name == "help" else "ttt.cli.train import main"
    code = f"import sys\nfrom {imported}\nsys.stdin.read()\n{CLOSED[name]}"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_options_are_listed_by_their_numbers() -> None:
    names = ["1k", "16k", "256", "1.3b", "125m", "w128", "s2", "w64", "paper_text", "row2", "row10"]
    expected = ["paper_text", "row2", "row10", "s2", "w64", "w128", "256", "1k", "16k", "125m", "1.3b"]
    assert sorted(names, key=by_number) == expected
