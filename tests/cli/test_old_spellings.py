"""Names of earlier versions and unknown flags: one line that names what to write."""

import sys
from types import ModuleType

import pytest

from ttt.cli import bench, claims, data, export, generate, plot, train
from ttt.cli import eval as evaluate
from ttt.cli.sweep import main as sweep

RENAMED = "this key is now called"
KEY = "; write KEY=VALUE, as --help lists them"

CASES = [
    (train, "run_dir=x", f"run_dir=x: {RENAMED} run; write run=x"),
    (train, "runs_dir=x", f"runs_dir=x: {RENAMED} runs; write runs=x"),
    (train, "--run_dir x", f"--run_dir: {RENAMED} run; write run=VALUE"),
    (train, "--runs_dir=x", f"--runs_dir=x: {RENAMED} runs; write runs=x"),
    (train, "--results x", f"--results: {RENAMED} runs; write runs=VALUE"),
    (train, "--cfg nothing", "argument --cfg/-c: invalid choice: 'nothing'"),
    (train, "--nothing", f"unrecognized arguments: --nothing{KEY}"),
    (evaluate, "run_dir=x", f"run_dir=x: {RENAMED} run; write run=x"),
    (export, "--run_dir=x", f"--run_dir=x: {RENAMED} run; write run=x"),
    (generate, "run_dir=x", f"run_dir=x: {RENAMED} run; write run=x"),
    (data, "inspect --nothing", f"unrecognized arguments: --nothing{KEY}"),
    (bench, "inner forms=dual", f"forms=dual: {RENAMED} kernels; write kernels=dual"),
    (bench, "kernels --forms dual", f"--forms: {RENAMED} kernels; write kernels=VALUE"),
    (bench, "latency --results=x", f"--results=x: {RENAMED} runs; write runs=x"),
    (plot, "--all results=x", f"results=x: {RENAMED} runs; write runs=x"),
    (plot, "--all runs_dir=x", f"runs_dir=x: {RENAMED} runs; write runs=x"),
    (plot, "--all --runs_dir x", f"--runs_dir: {RENAMED} runs; write runs=VALUE"),
    (plot, "--all --results x", "--results: has been replaced; write runs=FOLDER"),
    (plot, "--all per_token", "per_token: name figures or write --all, not both"),
    (claims, "results=x", f"results=x: {RENAMED} runs; write runs=x"),
    (claims, "--runs x", "--runs: write runs=FOLDER"),
    (sweep, "status sweep=a runs_dir=x", f"runs_dir=x: {RENAMED} runs; write runs=x"),
    (sweep, "status sweep=a --results x", f"--results: {RENAMED} runs; write runs=VALUE"),
    (sweep, "collect sweep=a --out x", "--out: write out=VALUE"),
    (sweep, "collect sweep=a --out=x", "--out=x: write out=x"),
    (sweep, "plan sweep=rates run_dir=x", "run_dir=x: a sweep sets run itself; runs=FOLDER chooses"),
]
"""Module of a command, its arguments, the start of the error."""


@pytest.mark.parametrize(("command", "arguments", "line"), CASES, ids=[f"{arguments}" for _, arguments, _ in CASES])
def test_one_line_names_what_to_write(
    command: ModuleType,
    arguments: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"error: {line}")
    assert printed.err.count("\n") == 1


def test_a_folder_that_must_be_given_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt-export", "run=nowhere"])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    error = capsys.readouterr().err
    assert error.startswith("error: no folder to write is given; give out=FOLDER")
    assert error.count("\n") == 1
