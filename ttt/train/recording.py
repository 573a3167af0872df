"""The record of a run while it runs: begun before the first step, and true whatever ends the run."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from ttt.config.errors import InterruptedRunError, RunError, UserError
from ttt.results.record import Record, RunFolder, Status, write_record
from ttt.train.stopping import Interrupted, signals_as_exceptions

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def recording(folder: RunFolder, record: Record) -> Iterator[None]:
    """Writes ``record`` as running, and on leaving as finished, failed or interrupted, with the reason.

    Raises:
        UserError: the folder cannot be written at all.
        RunError: the run failed or was interrupted; the record has the reason as ``error``. A file that can no longer
            be written counts as that: nothing was wrong with what was asked.
    """
    write_record(folder.record, record)
    started = time.perf_counter()

    def end(status: Status, error: str | None) -> None:
        record["status"], record["error"] = status, error
        record["timing"]["ended"] = now()
        record["timing"]["seconds"] = round(time.perf_counter() - started, 3)
        write_record(folder.record, record)

    try:
        with signals_as_exceptions():
            yield
        end("finished", None)
    except BaseException as error:
        interrupted = isinstance(error, Interrupted)
        reason = f"{error} at step {record['steps']}" if interrupted else _in_one_line(error)
        if not folder.path.exists() and isinstance(error, UserError | OSError):
            raise RunError(deleted(folder)) from error
        # On a full disk not even the record finds room, and the line to show is that of what failed first.
        with suppress(UserError):
            end("interrupted" if interrupted else "failed", reason)
        if isinstance(error, Interrupted):
            raise InterruptedRunError(f"{reason}; {_way_on(folder, record)}", error.number) from None
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            raise RunError(f"{reason}; {_way_on(folder, record)}") from error
        raise


def deleted(folder: RunFolder) -> str:
    """The line about a folder that somebody has removed under a run; it is not made again."""
    return f"{folder.path}: was deleted while the run wrote there; start it again"


def _in_one_line(error: BaseException) -> str:
    return str(error) if isinstance(error, RunError | UserError) else f"{type(error).__name__}: {error}".splitlines()[0]


def _way_on(folder: RunFolder, record: Record) -> str:
    if record["last_checkpoint"] is None:
        return f"no checkpoint had been written in {folder.path}"
    return f"the same command with ckpt=last goes on from {record['last_checkpoint']}"
