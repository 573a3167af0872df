"""Log files of jobs: standard output and standard error."""

from pathlib import Path

from submitit.core.utils import JobPaths

from ttt.config.errors import UserError
from ttt.launch.plan import SweepFolder
from ttt.launch.status import RunStatus


def log_files(folder: SweepFolder, status: RunStatus) -> list[Path]:
    """Return the log files of all processes of the run's last job, standard output before standard error.

    Raises:
        UserError: the job has not started.
    """
    files: list[Path] = []
    sweep = SweepFolder(status.elsewhere) if status.elsewhere else folder
    for task in range(status.run.nodes * status.run.devices):
        paths = JobPaths(sweep.submitit, status.job_id, task)
        files += [path for path in (paths.stdout, paths.stderr) if path.exists()]
    if not status.job_id or not files:
        raise UserError(f"{status.run.run_id}: is {status.state}, nothing has been printed; see ttt-sweep status")
    return files


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return "\n".join(text.splitlines()[-lines:])
