"""The job that trains one run of a sweep on a node and records how it ended."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from ttt.config.errors import DivergedError, InterruptedRunError, RunError, UserError
from ttt.launch.journal import EndStatus, Executor, JobEnd, append_lines
from ttt.launch.plan import Origin, PlannedRun, SweepFolder
from ttt.results.run_record import Label
from ttt.train.start import read_config, train


@dataclass(frozen=True)
class Job:
    """The training of one run; submitit calls it on the node, in every process of the run.

    It reads the configuration that was frozen when the job was submitted. The run starts, or resumes from its newest
    checkpoint. Errors are raised, so that the scheduler reports a failure too.

    Args:
        config: file of the resolved configuration, YAML.
        ends: file to which one line of JSON is appended when the job ends.
        sweep: name of the sweep, for the run's record.
        overrides: overrides of the run, for its record.
        label: label of the run, for its record.
        executor: what runs the job.
        directory: the working directory; None: that of the process that starts the job.
        folder: the run's folder in the plan; None, in jobs of earlier versions: named after its id.
    """

    config: Path
    ends: Path
    sweep: str
    overrides: tuple[str, ...]
    label: Label = None
    executor: Executor = "slurm"
    directory: str | None = None
    folder: str | None = None

    def __call__(self) -> None:
        """Train the run.

        Raises:
            UserError: the configuration file is missing or invalid, or the working directory is gone.
            RunError: the run failed, or was interrupted and not requeued.
        """
        _set_up_processes()
        try:
            _change_directory(self.directory)
            self._train()
        except (Exception, KeyboardInterrupt) as error:
            # On a full disk the end cannot be recorded either; the first error is the one to report.
            with suppress(UserError):
                self._record_end(_end_status(error), _error_line(error))
            raise
        self._record_end("finished", None)

    def checkpoint(self) -> DelayedSubmission:
        """Return the job that submitit queues after a time limit or a preemption: this job again."""
        self._record_end("requeued", None)
        return DelayedSubmission(self)

    def _train(self) -> None:
        config = read_config(self.config)
        config.ckpt, config.overwrite = "last", False
        config.run = self.folder or config.run or str(Path(config.runs) / self.config.stem)
        train(config, list(self.overrides), self.sweep, lambda: self.label)

    def _record_end(self, status: EndStatus, error: str | None) -> None:
        environment = submitit.JobEnvironment()
        if environment.global_rank == 0:
            end: JobEnd = {
                "job_id": environment.job_id,
                "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
                "status": status,
                "error": error,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            append_lines(self.ends, [end])


def make_job(folder: SweepFolder, run: PlannedRun, origin: Origin, executor: Executor) -> Job:
    """Return the job that trains a run."""
    config, ends = folder.config(run.run_id), folder.ends(run.run_id)
    return Job(config, ends, origin.sweep, run.overrides, run.label, executor, origin.directory, run.folder)


def _set_up_processes() -> None:
    """Set the environment of torch's process group; only the first process requeues the job."""
    environment = submitit.JobEnvironment()
    if environment.global_rank:
        signal.signal(signal.SIGUSR2, _exit)
    if environment.cluster == "local" and environment.num_tasks > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        address = os.environ["MASTER_ADDR"]
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # Some machines cannot resolve their own host name.
        os.environ["MASTER_ADDR"] = address


def _change_directory(directory: str | None) -> None:
    if directory is None:
        return
    try:
        os.chdir(directory)
    except OSError as error:
        raise UserError(
            f"{directory}: the sweep was submitted there, and paths start from it ({error.strerror})"
        ) from None


def _exit(*_: object) -> None:
    raise SystemExit(0)


def _end_status(error: BaseException) -> EndStatus:
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _error_line(error: BaseException) -> str:
    # submitit raises this error instead of requeueing a job that has used up its requeues.
    if isinstance(error, UncompletedJobError):
        return "timed out more often than slurm.requeues allows; ttt-sweep retry resumes from the last checkpoint"
    if isinstance(error, UserError | RunError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]
