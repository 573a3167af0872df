"""Killed and resumed runs end with the same bytes as an undisturbed run."""

import hashlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from starter import Started, Starter

from ttt.results.checkpoints import newest_whole

EVERY, STEPS = 3, 12
SLOWLY = """
import faulthandler
import time
faulthandler.dump_traceback_later(550)
from pathlib import Path
from ttt.train.module import TrainingModule
step = TrainingModule.training_step
def slowly(self, windows, batch_idx):
    if self.trainer.is_global_zero:
        Path(self.trainer.default_root_dir).with_name("steps").write_text(str(self.global_step))
    time.sleep(0.15)
    return step(self, windows, batch_idx)
TrainingModule.training_step = slowly
from ttt.cli.train import main
main()
"""
"""``ttt-train`` with steps long enough to be hit by a signal. It prints the step and, if it hangs, a traceback."""

SHAPES = {
    "one process": [],
    "accumulated": ["trainer.device_batch=2"],
    "two processes": ["trainer.strategy=ddp", "trainer.devices=2"],
    "mamba": ["model=mamba"],
}


class Runner:
    """Starts tiny runs in separate processes, and kills them."""

    def __init__(self, starter: Starter, program: Path, overrides: list[str]) -> None:
        self.starter, self.program, self.overrides = starter, program, overrides

    def start(self, folder: Path, *more: str) -> Started:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        arguments = [*self.overrides, f"run={folder}", "ckpt=last", *more]
        variables, processes = {"MASTER_PORT": str(port)}, 2 if "trainer.devices=2" in self.overrides else 1
        return self.starter.start(SLOWLY, arguments, str(self.program), environment=variables, processes=processes)

    def finish(self, folder: Path, *more: str) -> str:
        process = self.start(folder, *more)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return errors

    def kill(self, folder: Path, number: signal.Signals, step: int, delay: float) -> int:
        """Send a signal ``delay`` seconds after step ``step``; return the exit code.

        SIGKILL goes to all processes of the run, as when a machine fails; other signals only to the first process.
        """
        (folder / "steps").unlink(missing_ok=True)
        process = self.start(folder)
        wait_for_step(folder, step, process)
        time.sleep(delay)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=600)
        assert "Traceback" not in errors, errors
        print(
            f"  {number.name} {delay:.2f} s after step {step}: exit code {process.returncode}; {last_message(errors)}"
        )
        return process.returncode


def last_message(errors: str) -> str:
    """Return the run's last message, without the folders of the test."""
    messages = [
        line for line in errors.splitlines() if line.startswith(("error: ", "warning: ", "training ", "resuming "))
    ]
    return re.sub(r"\S+/", "", messages[-1]) if messages else "no message"


def wait_for_step(folder: Path, step: int, process: Started) -> None:
    """Wait until the run in ``folder`` has done ``step`` steps and is in the next one."""
    steps, deadline = folder / "steps", time.monotonic() + 600
    while not steps.exists() or int(steps.read_text() or 0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def last_state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / f"checkpoints/step-{STEPS:08d}.ckpt", weights_only=True)


def assert_equal(ours: Any, theirs: Any, path: str = "") -> None:
    """Assert bitwise equality of nested containers."""
    assert type(ours) is type(theirs), path
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key, value in ours.items():
            assert_equal(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), path
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(mine, other, f"{path}[{number}]")
    else:
        assert ours == theirs, path


@pytest.fixture(scope="module")
def runner_of(starter: Starter, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runner]:
    """Return the runner of a shape, after one undisturbed run of this shape."""

    @cache
    def runner(shape: str) -> Runner:
        folder = tmp_path_factory.mktemp("runs")
        runner = Runner(starter, folder / "slow_train.py", [*tiny, f"trainer.checkpoint_every={EVERY}", *SHAPES[shape]])
        runner.finish(folder / "whole")
        return runner

    return runner


@pytest.fixture
def runner(request: pytest.FixtureRequest, runner_of: Callable[[str], Runner]) -> Runner:
    return runner_of(request.param)


def assert_ends_as_the_whole_run(runner: Runner, folder: Path) -> None:
    """Finish the run, and compare all its files with those of the undisturbed run."""
    resumed_from = newest_whole(folder / "checkpoints")
    errors = runner.finish(folder)
    whole = runner.program.with_name("whole")
    ours, theirs = last_state(folder), last_state(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step"):
        assert_equal(ours[part], theirs[part], part)
    metrics = [(run / "metrics.parquet").read_bytes() for run in (folder, whole)]
    assert metrics[0] == metrics[1]
    losses = pd.read_parquet(folder / "metrics.parquet").query("split == 'train' and metric == 'loss'")
    assert losses.step.tolist() == list(range(1, STEPS + 1)), "none is missing, none is doubled"
    assert (record(folder)["status"], record(folder)["error"], record(folder)["steps"]) == ("finished", None, STEPS)
    assert record(folder)["results"] == record(whole)["results"]
    assert not list(folder.rglob("*.partial"))
    digest = hashlib.sha256(metrics[0]).hexdigest()[:12]
    where = resumed_from.path.name if resumed_from else "the beginning"
    print(f"  resumed from {where}: {last_message(errors)}")
    print(f"  weights, optimizer and loop state equal; metrics.parquet {digest} in both")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "seed"), [("one process", 0), ("one process", 1), ("accumulated", 0), ("mamba", 0)], indirect=["runner"]
)
def test_killed_at_any_moment(runner: Runner, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    print()
    runner.kill(tmp_path / "run", signal.SIGKILL, int(random.integers(1, STEPS)), random.uniform(0, 0.15))
    assert record(tmp_path / "run")["status"] == "running", "it had no time to write its record"
    assert_ends_as_the_whole_run(runner, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "number"),
    [
        ("one process", signal.SIGTERM),
        ("one process", signal.SIGINT),
        ("accumulated", signal.SIGTERM),
        ("two processes", signal.SIGINT),
    ],
    indirect=["runner"],
)
def test_stopped_by_a_signal(runner: Runner, tmp_path: Path, number: signal.Signals) -> None:
    """All steps are saved, also between two checkpoints."""
    random = np.random.default_rng(number)
    step = int(random.integers(1, STEPS // EVERY)) * EVERY
    print()
    assert runner.kill(tmp_path / "run", number, step, random.uniform(0, 0.1)) == 1
    left = record(tmp_path / "run")
    assert left["status"] == "interrupted"
    # On a busy machine the signal arrives in a later step.
    current = int((tmp_path / "run" / "steps").read_text()) + 1
    assert step < current < STEPS
    assert left["error"] == f"stopped by {number.name} at step {current}"
    assert left["last_checkpoint"] == f"step-{current:08d}.ckpt"
    assert_ends_as_the_whole_run(runner, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["one process", "two processes"], indirect=True)
def test_twice_in_a_row(runner: Runner, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    print()
    runner.kill(tmp_path / "run", signal.SIGKILL, 4, random.uniform(0, 0.15))
    runner.kill(tmp_path / "run", signal.SIGTERM, 7, random.uniform(0, 0.1))
    runner.kill(tmp_path / "run", signal.SIGKILL, 10, random.uniform(0, 0.15))
    assert_ends_as_the_whole_run(runner, tmp_path / "run")
