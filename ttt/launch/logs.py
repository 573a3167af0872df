"""What jobs wrote on standard output and standard error."""

from pathlib import Path

from submitit.core.utils import JobPaths

from ttt.config.errors import UserError
from ttt.launch.plan import SweepFolder
from ttt.launch.status import RunStatus

LONGEST = 1 << 20
"""Bytes from the end of a file that are looked at."""


def log_files(folder: SweepFolder, status: RunStatus) -> list[Path]:
    """The files of all processes of the run's last job, standard output before standard error.

    Raises:
        UserError: it has not started.
    """
    found: list[Path] = []
    sweep = SweepFolder(status.elsewhere) if status.elsewhere else folder
    for task in range(status.run.nodes * status.run.devices):
        paths = JobPaths(sweep.submitit, status.job_id, task)
        found += [path for path in (paths.stdout, paths.stderr) if path.exists()]
    if not status.job_id or not found:
        raise UserError(f"{status.run.run_id}: is {status.state}, nothing has been written; ttt-sweep status says more")
    return found


def tail(path: Path, lines: int) -> str:
    """The last lines of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LONGEST))
            text = file.read().decode(errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return "\n".join(text.splitlines()[-lines:])
