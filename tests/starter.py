"""Programs in separate processes that do not wait seconds for torch and Lightning to be imported.

A server process imports everything once and forks for each program. The forked process has its own session,
environment, working folder and output, as if a shell had started it.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ttt.launch.fork_server import ForkedProcess, serve

PRELOADED = (
    "ttt.cli.train",
    "ttt.cli.eval",
    "ttt.evaluate.run",
    "ttt.train.run",
    "pandas",
    # A training imports these late.
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    "pyarrow.pandas_compat",
    "ttt.layers.attention",
    "ttt.layers.mamba",
)


class Starter:
    """Starts programs in forks of a process that has imported everything already.

    Args:
        folder: for the files that hold the output of the programs.
        environment: variables in addition to those of this process, for example PYTHONPATH of another suite.
        preloaded: modules that the server imports.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, preloaded: Sequence[str] = PRELOADED
    ) -> None:
        self._folder, self._preloaded = folder, preloaded
        self._environment = os.environ | dict(environment or {})
        self._server: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def start(
        self,
        program: str,
        arguments: Sequence[str] = (),
        name: str = "program",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        processes: int = 1,
    ) -> "Started":
        """Run the text ``program`` as the main program, with ``name`` and ``arguments`` as ``sys.argv``.

        With two ``processes`` a second process is ready for Lightning to start on the same machine.
        """
        output = Path(tempfile.mkdtemp(dir=self._folder))
        request = {
            "program": program,
            "argv": [name, *arguments],
            "cwd": str(cwd or Path.cwd()),
            "environment": self._environment | dict(environment or {}),
            "output": [str(output / "stdout"), str(output / "stderr")],
            "processes": processes,
        }
        return Started(self.ask(request), self, output)

    def run(self, program: str, arguments: Sequence[str] = (), **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end."""
        started = self.start(program, arguments, **more)
        output, errors = started.communicate()
        assert started.returncode is not None
        return subprocess.CompletedProcess([*arguments], started.returncode, output, errors)

    def ask(self, request: dict[str, Any]) -> Any:
        """Return the server's answer."""
        with self._turn:
            if self._server is None:
                pipe = subprocess.PIPE
                command = [sys.executable, __file__, *self._preloaded]
                self._server = subprocess.Popen(command, env=self._environment, stdin=pipe, stdout=pipe, text=True)
            assert self._server.stdin is not None
            assert self._server.stdout is not None
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the server; programs that still run continue."""
        if self._server is not None:
            self._server.communicate()


@dataclass
class Started(ForkedProcess):
    """A program that was started, with the methods of ``subprocess.Popen`` that the tests use."""

    starter: Starter
    output: Path

    def _ended(self) -> int | None:
        code: int | None = self.starter.ask({"poll": self.pid})
        return code

    def wait(self, timeout: float = 600) -> int:
        """Return the exit code when the program has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return code

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Return standard output and standard error when the program has ended."""
        self.wait(timeout)
        return (self.output / "stdout").read_text(), (self.output / "stderr").read_text()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """Make this process look like one that was started for the request."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in enumerate((os.devnull, *request["output"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.argv = request["argv"]
    sys.path.insert(0, "")
    _set_rank()
    if request["processes"] == 2:
        _fork_second()


@dataclass
class Second(ForkedProcess):
    """A second process, forked before the program starts; Lightning starts it in place of ``subprocess.Popen``."""

    pipe: int

    def popen(self, command: list[str], env: dict[str, str], cwd: str | None) -> "Second":
        with os.fdopen(self.pipe, "w") as pipe:
            json.dump({"argv": command[1:], "environment": env, "cwd": cwd or "."}, pipe)
        return self


def _fork_second() -> None:
    """Fork the second process, which waits for its arguments and then runs the program too."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(read)
        launcher = import_module("lightning.pytorch.strategies.launchers.subprocess_script")
        launcher.subprocess = SimpleNamespace(Popen=Second(pid, write).popen)
        return
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if not text:
        os._exit(0)
    given = json.loads(text)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    sys.argv = given["argv"]
    _set_rank()


def _set_rank() -> None:
    """Lightning reads its rank from the environment when it is imported."""
    if rank_zero := sys.modules.get("lightning.fabric.utilities.rank_zero"):
        rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0


def _main() -> None:
    import_module("quick_imports").skip_unused_imports()
    # The first entry is the folder of this file; PYTHONPATH comes next.
    del sys.path[0]
    for module in sys.argv[1:]:
        import_module(module)
    gc.freeze()
    request = serve()
    if request is not None:
        _become(request)
        exec(compile(request["program"], request["argv"][0], "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main()
