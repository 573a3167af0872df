"""A real SLURM with virtual nodes on this machine, and sweeps on it through the user's commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from starter import Starter

from ttt.config.assets import assets

SCRIPT = assets() / "slurm/one_machine.py"
NODES = 5


@dataclass(frozen=True)
class Cluster:
    """SLURM, started for these tests.

    Attributes:
        folder: folder of its daemons.
        work: folder for sweeps and runs.
    """

    folder: Path
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "etc/slurm.conf")}

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands and return its output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def daemon(self, name: str) -> int:
        """Return the process id of a daemon."""
        return int((self.folder / f"run/{name}.pid").read_text())

    def lives(self, process: int) -> bool:
        """Return whether a daemon runs; in a container an ended daemon remains as a zombie."""
        try:
            return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
        except OSError:
            return False


@dataclass(frozen=True)
class Sweep:
    """A sweep of tiny runs on the cluster."""

    cluster: Cluster
    starter: Starter
    file: Path
    runs_folder: Path

    @property
    def folder(self) -> Path:
        return self.runs_folder / "sweeps" / self.file.stem

    def command(self, name: str, *arguments: str, step_seconds: float = 0) -> str:
        """Run ``ttt-sweep NAME`` and return its output."""
        done = self.run(name, *arguments, step_seconds=step_seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, name: str, *arguments: str, step_seconds: float = 0) -> "subprocess.CompletedProcess[str]":
        """Run ``ttt-sweep NAME``."""
        command = [name, f"sweep={self.file}", f"runs={self.runs_folder}", *arguments]
        environment = self.cluster.environment | {
            "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).with_name("slowly"), Path(__file__).parents[1]))),
            "STEP_SECONDS": str(step_seconds),
        }
        return self.starter.run("from ttt.cli.sweep.main import main; main()", command, environment=environment)

    def submit(self, *arguments: str, step_seconds: float = 0) -> str:
        return self.command("submit", "slurm=one_machine", *arguments, step_seconds=step_seconds)

    def runs(self) -> dict[str, dict[str, Any]]:
        """Return the runs of ``ttt-sweep status --json`` by run_id."""
        return {run["run_id"]: run for run in json.loads(self.command("status", "--json"))}

    def states(self) -> dict[str, str]:
        return {name: run["state"] for name, run in self.runs().items()}

    def only(self) -> dict[str, Any]:
        """Return the status of the only run."""
        (run,) = self.runs().values()
        return run

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs that have been submitted."""
        return lines(self.folder / "jobs.jsonl")

    def planned(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "plan.json").read_text())["runs"]

    def record(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return the run's record, empty if there is none yet."""
        path = Path(run["folder"]) / "record.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def ends(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        return lines(self.folder / "ends" / f"{run['run_id']}.jsonl")

    def wait_for(self, done: Callable[[], object], event: str, seconds: float = 600) -> None:
        """Wait until ``done()`` holds."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                self.fail(f"not within {seconds} s: {event}")
            # Many conditions run ttt-sweep, which takes a third of a second of processor time.
            time.sleep(1)

    def fail(self, why: str) -> NoReturn:
        """Fail the test with the sweep's status and logs."""
        started = [run["run_id"] for run in self.planned() if self.record(run)]
        logs = self.command("logs", *started) if started else ""
        pytest.fail(f"{self.file.stem} in {self.runs_folder}: {why}\n{self.command('status')}\n{logs}")

    def wait_until_finished(self, seconds: float = 600) -> None:
        """Wait until all runs are finished; fail at the first run that failed."""

        def finished() -> bool:
            runs = self.planned()
            for run in runs:
                if (ends := self.ends(run)) and ends[-1]["status"] == "failed":
                    self.fail(f"{run['run_id']}: {ends[-1]['error']}")
            return all(self.record(run).get("status") == "finished" for run in runs)

        self.wait_for(finished, "all runs finished", seconds)

    def wait_for_step(self, run: dict[str, Any], step: int) -> None:
        """Wait until the run has saved ``step`` steps."""
        self.wait_for(lambda: self.record(run).get("steps", 0) >= step, f"{run['run_id']} at step {step}")

    def kill(self, job_id: str) -> None:
        """Send SIGKILL to the processes of a job, as when a node's memory runs out."""
        own = {f"SLURM_CONF={self.cluster.environment['SLURM_CONF']}".encode(), f"SLURM_JOB_ID={job_id}".encode()}
        killed = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
                program = Path((process / "cmdline").read_text().split("\0")[0]).name
            except OSError:
                continue
            if program.startswith("python") and own <= set(variables):
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
        assert killed, f"job {job_id} has no process"


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; an absent file is empty."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Not in pytest's temporary folder, which only its owner may enter: munge requires a path open to all users.
    work = Path(tempfile.mkdtemp(prefix="ttt-slurm-"))
    work.chmod(0o755)
    folder = work / "cluster"
    start(folder)
    try:
        yield Cluster(folder, work)
    finally:
        subprocess.run([sys.executable, SCRIPT, "stop", folder], check=True)
        shutil.rmtree(work)


def start(folder: Path) -> None:
    """Start the cluster on free ports; the tests of another checkout may use some."""
    first = 20000 + os.getpid() % 400 * 10
    for port in range(first, first + 100, 10):
        command = [sys.executable, str(SCRIPT), "start", str(folder), "--nodes", str(NODES), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 or "taken" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def sweep(cluster: Cluster, starter: Starter, tiny: list[str]) -> Callable[..., Sweep]:
    """Return a function that makes a sweep of tiny runs with a separate runs folder."""

    def make(name: str, *base: str, runs: str = "", rules: list[Any] | None = None, **axes: list[Any]) -> Sweep:
        file = cluster.work / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"base": [*tiny, *base], "axes": axes, "rules": rules or []}))
        return Sweep(cluster, starter, file, cluster.work / (runs or name))

    return make
