"""Sweeps without a cluster: a plan of small runs, and stand-ins for SLURM's commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ttt.config.schema import TrainConfig
from ttt.launch.plan import Plan, PlannedRun, SweepFolder, freeze

Program = Callable[[str, str], None]


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[[list[PlannedRun]], SweepFolder]:
    """Freeze a plan of these runs."""

    def make(runs: list[PlannedRun]) -> SweepFolder:
        folder = SweepFolder(tmp_path / "sweep")
        configs = {run.run_id: TrainConfig(seed=number) for number, run in enumerate(runs)}
        freeze(Plan("six", runs, configs), folder)
        return folder

    return make


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Create a program with this name and Python source, first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/usr/bin/env python3\nimport os, sys\n{text}\n")
        (folder / name).chmod(0o755)

    return make
