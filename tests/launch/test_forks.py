"""Jobs of a local sweep that are forked from one process: the same as in processes of their own."""

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ttt.config.cluster import ClusterConfig
from ttt.config.schema import TrainConfig
from ttt.launch import forks
from ttt.launch.forks import ForkedProcess, ForkingExecutor, Forks, can_fork
from ttt.train.start import train

Configure = Callable[..., TrainConfig]


def executor(folder: Path, server: Forks | None) -> ForkingExecutor:
    made = ForkingExecutor(folder, server, max_num_timeout=0)
    made.update_parameters(timeout_min=10, signal_delay_s=0, tasks_per_node=1, gpus_per_node=0, setup=[])
    return made


def ended(job: Any) -> int:
    deadline = time.monotonic() + 600
    while not job.done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(job._process.returncode)


@pytest.mark.slow
def test_runs_are_those_of_separate_processes(configure: Configure, tmp_path: Path) -> None:
    """Also after a run that failed and one that was killed, in another folder and with variables of its own."""
    alone, forked = (configure(f"run={tmp_path / name}", "recipe.steps=2") for name in ("alone", "forked"))
    train(alone, [])
    server = Forks()
    assert server.ready
    submit = executor(tmp_path / "jobs", server).submit
    failed = submit(partial(int, "no number"))
    killed = submit(partial(exec, "import os, time; os.chdir('/'); os.environ['A'] = '1'; time.sleep(600)"))
    trained = submit(partial(train, forked, []))
    assert ended(failed) == 0
    assert "ValueError: invalid literal" in failed.paths.stderr.read_text()
    assert ended(trained) == 0, trained.paths.stderr.read_text()
    for file in ("metrics.parquet", "checkpoints/step-00000002.ckpt"):
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "forked" / file).read_bytes(), file
    (run,) = psutil.Process(killed._process.pid).children()
    run.kill()
    assert ended(killed) == 0
    assert not killed.paths.result_pickle.exists()
    still = submit(partial(time.sleep, 0.5))
    server.close()
    assert ended(still) == 0, "a job outlives the server"
    # Without the server submitit starts the process itself.
    assert ended(executor(tmp_path / "jobs", server).submit(partial(int, "1"))) == 0


def test_a_process_that_has_ended_gets_no_signal() -> None:
    pid = os.fork()
    if not pid:
        os._exit(3)
    process = ForkedProcess(pid)
    while process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.returncode == 3


def test_code_of_before_an_edit_is_not_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The record names the commit that the run finds."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"folder": "/", "environment": {}})))
    former = [(path, time - 1) for path, time in forks._sources()]
    assert len(former) > 100
    assert forks._serve(former) is None
    assert capsys.readouterr().out == "null\n"


@pytest.mark.parametrize("values", [{"gpus_per_task": 1}, {"setup": ["module load cuda"]}])
def test_jobs_with_gpus_or_a_shell_are_no_forks(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "sys", SimpleNamespace(platform="linux"))
    assert can_fork(ClusterConfig(name="here"))
    assert not can_fork(ClusterConfig(name="here", **values))
    monkeypatch.setattr(forks, "sys", SimpleNamespace(platform="darwin"))
    assert not can_fork(ClusterConfig(name="here"))
