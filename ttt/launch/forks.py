"""Runs of a local sweep as forks of a process that has imported torch and Lightning once for all of them.

The queue starts it, ``python -m ttt.launch.forks``. For each job it forks submitit's controller, which forks the run:
the same two processes, with the same environment, signals, logs and exit codes, as submitit would start. A run shares
nothing with other runs but what was imported, so that none can harm another.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import psutil
import submitit
from submitit.core.submission import process_job
from submitit.core.utils import JobPaths
from submitit.local.local import Controller, LocalJob

from ttt.config.cluster import ClusterConfig
from ttt.launch.fork_server import ForkedProcess, serve
from ttt.train.quick_imports import quick_imports

PRELOADED = (
    "ttt.launch.job",
    "ttt.train.prepare",
    "ttt.train.run",
    # A run imports these late.
    "ttt.layers.attention",
    "ttt.layers.mamba",
    "ttt.layers.ttt",
    "pyarrow.pandas_compat",
)


class Forks:
    """The queue's connection to the process that forks jobs, which ends with the queue. Running jobs go on."""

    def __init__(self) -> None:
        # Without GPUs: CUDA that is in use does not survive a fork.
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-u", "-m", "ttt.launch.forks"]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.ready = self._answer() == "ready"

    def fork(self, folder: Path, environment: dict[str, str]) -> "Forked | None":
        """Start the controller of a job.

        Args:
            folder: submitit's folder.
            environment: of the process.

        Returns:
            The process; None: the sources have changed since they were imported, or the server has ended.
        """
        pid = self.ask({"folder": str(folder), "environment": environment})
        return None if pid is None else Forked(pid, server=self)

    def ask(self, request: dict[str, Any]) -> Any:
        """Return the server's answer; None if it has ended."""
        assert self._server.stdin is not None
        if not self.ready:
            return None
        try:
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
        except OSError:
            self.ready = False
        return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        self.ready = bool(line)
        return json.loads(line) if line else None

    def close(self) -> None:
        """End the server."""
        self.ready = False
        with suppress(OSError):
            self._server.communicate()


@dataclass
class Forked(ForkedProcess):
    """The controller of a job, a child of the server."""

    server: Forks = field(kw_only=True)

    def _ended(self) -> int | None:
        code: int | None = self.server.ask({"poll": self.pid})
        # Without its parent nobody learns its code; the run has recorded how it ended.
        return code if self.server.ready or _runs(self.pid) else 0


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ForkingExecutor(submitit.LocalExecutor):
    """submitit's local executor, with jobs that ``forks`` starts, or submitit itself where there is none."""

    def __init__(self, folder: Path, forks: Forks | None, max_num_timeout: int) -> None:
        super().__init__(folder, max_num_timeout=max_num_timeout)
        self._forks = forks

    def _submit_command(self, command: str) -> LocalJob[Any]:
        forked = None
        if self._forks is not None and self.parameters["tasks_per_node"] == 1:
            forked = self._forks.fork(self.folder, _environment(command, self.parameters))
        if forked is None:
            return super()._submit_command(command)
        return LocalJob(self.folder, str(forked.pid), [0], forked)  # type: ignore[arg-type]


def can_fork(cluster: ClusterConfig) -> bool:
    """Return whether jobs may be forks: on Linux, without GPUs and without shell lines before a run."""
    return sys.platform == "linux" and not cluster.gpus_per_task and not cluster.setup


def _environment(command: str, parameters: dict[str, Any]) -> dict[str, str]:
    """Return the environment in which submitit starts the controller of a job of one process without GPUs."""
    return os.environ | {
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * parameters["timeout_min"]),
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(parameters["signal_delay_s"]),
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_STDERR_TO_STDOUT": "",
        "SUBMITIT_EXECUTOR": "local",
        "CUDA_VISIBLE_DEVICES": "",
        "SUBMITIT_LOCAL_WITH_SHELL": "",
    }


class _Controller(Controller):
    """submitit's controller of a job with one process, which it forks."""

    def start_tasks(self) -> None:
        """Fork the run; in the run, return only by its exception or exit."""
        self.folder.mkdir(exist_ok=True)
        paths = JobPaths(self.folder, self.pid, 0)
        logs: list[IO[str]] = [paths.stdout.open("a"), paths.stderr.open("a")]
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for number, log in enumerate(logs, start=1):
                os.dup2(log.fileno(), number)
            own = {"LOCALID": "0", "GLOBALID": "0", "JOB_ID": self.pid}
            os.environ.update({f"SUBMITIT_LOCAL_{name}": value for name, value in own.items()})
            process_job(self.folder)
            sys.exit()
        self.stdouts, self.stderrs = logs[:1], logs[1:]
        self.tasks.append(ForkedProcess(pid))  # type: ignore[arg-type]


def main() -> None:
    """Import what runs need, then answer the requests of ``Forks`` until it ends."""
    sources = _sources()
    with quick_imports():
        for module in PRELOADED:
            import_module(module)
    print(json.dumps("ready"), flush=True)
    request = _serve(sources)
    if request is not None:
        os.environ.clear()
        os.environ.update(request["environment"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        # The pipes belong to the server; the queue's log is standard error.
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        _Controller(Path(request["folder"])).run()


def _serve(sources: list[tuple[str, int]]) -> dict[str, Any] | None:
    """Fork jobs until the source files change: a run that starts later must not run the code of before."""
    return serve(lambda: _sources() == sources)


def _sources() -> list[tuple[str, int]]:
    """Return the suite's source files and the times at which they were changed."""
    files = (path for path in Path(__file__).parents[1].rglob("*") if path.suffix in (".py", ".cpp", ".h"))
    return sorted((str(path), path.stat().st_mtime_ns) for path in files)


if __name__ == "__main__":
    main()
