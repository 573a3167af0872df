"""The queue of a sweep on this machine."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import planned

from ttt.config.cluster import ClusterConfig
from ttt.launch import queue
from ttt.launch.plan import PlannedRun, SweepFolder

Make = Callable[[list[PlannedRun]], SweepFolder]


def test_the_queue_passes_on_nothing_of_the_job_that_starts_it(
    make_sweep: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an interactive job of SLURM in which a user runs a sweep."""
    folder = make_sweep([planned(0, tmp_path)])
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(queue.subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.setenv("SLURM_NTASKS", "8")
    queue.start_queue(folder, ClusterConfig(name="here", environment={"A": "1"}))
    assert "SLURM_NTASKS" not in started[0]
    assert started[0]["A"] == "1"
    assert os.environ["SLURM_NTASKS"] == "8"
