"""A process that forks itself on request and reports exit codes: a JSON line each way on its standard streams."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ForkedProcess:
    """A child process with the methods of ``subprocess.Popen`` that submitit calls."""

    pid: int
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if self.returncode is None:
            self.returncode = self._ended()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, not to its children, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _ended(self) -> int | None:
        return exit_code(self.pid)


def exit_code(pid: int) -> int | None:
    """Return the exit code of a child of this process, or None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve(may_fork: Callable[[], bool] = lambda: True) -> dict[str, Any] | None:
    """Answer requests until there are no more; in a forked process, return its request.

    A request ``{"poll": pid}`` asks for the exit code of a fork, null while it runs. Any other asks for a fork: the
    answer is its process id, or null where ``may_fork`` returns False.
    """
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "poll" in request:
            answer = exit_code(request["poll"])
        elif not may_fork():
            answer = None
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    return None
