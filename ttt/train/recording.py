"""Recording the start and the end of a run, however it ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ttt.config.errors import DamagedDataError, DivergedError, InterruptedRunError, RunError, UserError
from ttt.results.record import Status
from ttt.results.run_record import RunRecord
from ttt.train.stopping import Interrupted, signals_as_exceptions

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def recording(record: RunRecord) -> Iterator[None]:
    """Write ``record`` as running and, at the end, as finished, diverged, failed or interrupted, with the reason.

    Raises:
        UserError: the folder cannot be written at the start.
        DamagedDataError: the text of the run has changed on disk.
        RunError: the run failed or was interrupted; the reason is in the record as ``error``. A file that can no longer
            be written is also a failure of the run, not a mistake in the configuration.
    """
    record.write()
    try:
        with signals_as_exceptions():
            yield
        record.end("finished", None)
    except BaseException as error:
        deleted = not record.folder.path.exists() and isinstance(error, UserError | OSError)
        status, reason = _status(error), _reason(error, record)
        # On a full disk the record cannot be written either; report the first failure.
        with suppress(UserError):
            record.end(status, reason)
        if deleted:
            raise RunError(record.deleted) from error
        if isinstance(error, Interrupted):
            raise InterruptedRunError(f"{reason}; {_remedy(record)}", error.number) from None
        if isinstance(error, DamagedDataError):
            raise DamagedDataError(f"{reason}; {_remedy(record)}") from error
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in DISK_FULL):
            raise RunError(f"{reason}; {_remedy(record)}") from error
        raise


def _status(error: BaseException) -> Status:
    if isinstance(error, Interrupted):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"


def _reason(error: BaseException, record: RunRecord) -> str:
    """Return the error in one line."""
    if isinstance(error, Interrupted):
        return f"{error} at step {record.steps}"
    return str(error) if isinstance(error, RunError | UserError) else f"{type(error).__name__}: {error}".splitlines()[0]


def _remedy(record: RunRecord) -> str:
    checkpoint = record.last_checkpoint
    if checkpoint is None:
        return f"no checkpoint had been written in {record.folder.path}"
    return f"the same command with ckpt=last resumes from {checkpoint}"
