"""A run of a sweep as a job: what happens on the node, and what is left there about how it ended."""

import os
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from ttt.config.errors import DivergedError, InterruptedRunError, RunError, UserError
from ttt.launch.journal import End, EndStatus, append
from ttt.results.run_record import Label
from ttt.train.start import read_config, train


@dataclass(frozen=True)
class Job:
    """One run, as submitit calls it on the node, in every process of the run.

    The configuration is the one that was frozen when the job was submitted: nothing is composed again. The run starts,
    or goes on from its newest checkpoint. What fails is raised, so that the scheduler says so too.

    Args:
        config: the resolved configuration, YAML.
        ends: where the end is appended, one line of JSON.
        sweep: the name of the sweep, for the run's record.
        overrides: what was asked for on top of the defaults, for the record.
        label: the run's description for figures, for the record.
    """

    config: Path
    ends: Path
    sweep: str
    overrides: tuple[str, ...]
    label: Label = None

    def __call__(self) -> None:
        """Runs it.

        Raises:
            UserError: the configuration is gone, or what it asks for cannot be.
            RunError: the run failed, or was interrupted and not queued again.
        """
        _introduce_processes()
        try:
            self._run()
        except (Exception, KeyboardInterrupt) as error:
            self._append(_status(error), _line(error))
            raise
        self._append("finished", None)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues when a time limit or a preemption has ended the job: the same again."""
        self._append("requeued", None)
        return DelayedSubmission(self)

    def _run(self) -> None:
        config = read_config(self.config)
        config.ckpt, config.overwrite = "last", False
        train(config, list(self.overrides), self.sweep, self.label)

    def _append(self, status: EndStatus, error: str | None) -> None:
        environment = submitit.JobEnvironment()
        if environment.global_rank == 0:
            end: End = {
                "job_id": environment.job_id,
                "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
                "status": status,
                "error": error,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            append(self.ends, [end])


def _introduce_processes() -> None:
    """Tells the processes of a run of each other, and who leaves the requeueing to the first one."""
    environment = submitit.JobEnvironment()
    if environment.global_rank:
        signal.signal(signal.SIGUSR2, _end_quietly)
    if environment.cluster == "local" and environment.num_tasks > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        address = os.environ["MASTER_ADDR"]
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # A machine need not be able to resolve its own name.
        os.environ["MASTER_ADDR"] = address


def _end_quietly(*_: object) -> None:
    raise SystemExit(0)


def _status(error: BaseException) -> EndStatus:
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _line(error: BaseException) -> str:
    # submitit raises it where it would queue the job again, once too often.
    if isinstance(error, UncompletedJobError):
        return "timed out more often than slurm.requeues allows; ttt-sweep retry goes on from the last checkpoint"
    if isinstance(error, UserError | RunError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0]
