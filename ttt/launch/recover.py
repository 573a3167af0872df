"""Jobs of a sweep: the recorded ones, and those that a killed process had submitted but not yet recorded.

submitit names the pickle of a job after the job's id as soon as the job has one; only then is the job recorded. So such
a pickle without a line in ``jobs.jsonl`` is a job that waits, runs or has ended. A job whose pickle has no id yet finds
no pickle and ends without training.
"""

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from submitit.helpers import DelayedSubmission

from ttt.launch.journal import JobLine, read_lines
from ttt.launch.plan import SweepFolder

SUBMITTED = "_submitted.pkl"
"""The end of the name of a submitted job's pickle; the beginning is the job's id."""


def read_jobs(folder: SweepFolder) -> list[JobLine]:
    """Return the lines of ``jobs.jsonl``, and a line for each submitted job that it lacks.

    Raises:
        UserError: the file is broken.
    """
    lines = [cast(JobLine, line) for line in read_lines(folder.jobs)]
    known = {line["job_id"] for line in lines}
    pickles = {path.name.removesuffix(SUBMITTED): path for path in folder.submitit.glob(f"*{SUBMITTED}")}
    lost = [_line(job_id, path) for job_id, path in sorted(pickles.items()) if job_id not in known]
    return lines + [line for line in lost if line is not None]


def _line(job_id: str, path: Path) -> JobLine | None:
    """Return the line of a job, or None if another version of the suite has submitted it."""
    try:
        job, written = cast(Any, DelayedSubmission.load(path)).function, path.stat().st_mtime
        time = datetime.fromtimestamp(written, UTC).isoformat()
        return {"run_id": job.config.stem, "job_id": job_id, "executor": job.executor, "time": time}
    except (OSError, EOFError, ImportError, AttributeError, pickle.UnpicklingError):
        return None
