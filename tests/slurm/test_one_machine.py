"""The errors of the script for a cluster on one machine; the tests on the real cluster cover its normal use."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ttt.config.assets import assets

SCRIPT = assets() / "slurm/one_machine.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module that sees root and all packages installed."""
    spec = importlib.util.spec_from_file_location("one_machine", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/sbin/{program}")
    return module


def refused(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["one_machine.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2


def test_root_is_needed(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(script, monkeypatch, "start", tmp_path / "cluster")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("run this with sudo")
    assert not (tmp_path / "cluster").exists()


def test_missing_packages_are_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program in ("mariadbd", "sbatch") else program)
    refused(script, monkeypatch, "start", tmp_path / "cluster")
    (line,) = capsys.readouterr().err.splitlines()
    assert "apt-get install --no-install-recommends mariadb-server-core slurm-client" in line
    assert not (tmp_path / "cluster").exists()


def test_a_port_that_is_taken_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("/tmp/ttt-cluster-that-does-not-start")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(script, monkeypatch, "start", folder, "--port", port - 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} is taken" in line
    assert not folder.exists()


def test_a_cluster_that_runs_is_not_started_again(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/slurmctld.pid").write_text(str(os.getpid()))
    refused(script, monkeypatch, "start", tmp_path)
    assert "a cluster runs there" in capsys.readouterr().err


def test_a_path_too_long_for_a_socket_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(script, monkeypatch, "start", tmp_path / ("deep" * 20))
    assert "at most 80 characters" in capsys.readouterr().err


def test_nothing_to_stop(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(script, monkeypatch, "stop", tmp_path)
    assert "no cluster has been started there" in capsys.readouterr().err
    assert tmp_path.exists()


def test_removing_leaves_other_files(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    script.Cluster(tmp_path, nodes=0, port=0).remove()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_script_needs_nothing_but_python(tmp_path: Path) -> None:
    """The script runs under sudo, without a virtual environment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "start" in done.stdout
    assert "stop" in done.stdout
