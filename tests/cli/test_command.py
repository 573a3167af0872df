"""Arguments translated for Hydra, and help from the schema."""

from dataclasses import fields

import pytest

from ttt.cli import bench, data, export, generate, train
from ttt.cli import eval as evaluate
from ttt.cli.command import Command
from ttt.cli.compose import register_schemas
from ttt.cli.help import columns, describe_command
from ttt.config.errors import UserError

COMMANDS = [
    *(module.COMMAND for module in (train, evaluate, export, generate)),
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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.config_name)
def test_help_has_a_line_for_every_key(command: Command) -> None:
    register_schemas()
    shown = describe_command(command.help, command.config_name, [], command.more_groups, command.aliases)
    assert shown.startswith(command.help.rstrip())
    names = {key: alias for alias, key in command.aliases.items()}
    for field in fields(command.schema):
        if field.name != "parent":
            assert f"\n  {names.get(field.name, field.name)}" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_help_has_the_values_of_the_command_line() -> None:
    register_schemas()
    shown = describe_command("", "train", ["model=mamba", "size=125m"], (), {"from": "parent.run"})
    for line in ("  model=mamba\n", "  model.state_size=16 ", "  size.width=768 ", "  from=null "):
        assert line in shown
    assert "model.mini_batch_size" not in shown


def test_columns_are_wrapped() -> None:
    lines = columns({"a=1": "word " * 30, "longer=2": ""}).splitlines()
    assert [line.index("word") for line in lines[:2]] == [12, 12]
    assert lines[2] == "  longer=2"
