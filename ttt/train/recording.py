"""The record of a run while it runs: begun before the first step, and true whatever ends the run."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from ttt.config.errors import RunError, UserError
from ttt.results.record import Record, RunFolder, write_record


class Interrupted(BaseException):
    """A signal asked the run to end. Not an ``Exception``, so that nothing mistakes it for an error to handle."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def recording(folder: RunFolder, record: Record) -> Iterator[None]:
    """Writes ``record`` as running, and on leaving as finished, failed or interrupted, with the reason.

    Raises:
        RunError: the run failed or was interrupted; the message is what the record has as ``error``.
    """
    write_record(folder.record, record)
    started = time.perf_counter()
    try:
        with _signals_as_exceptions():
            yield
        record["status"] = "finished"
    except Interrupted as interruption:
        record["status"], record["error"] = "interrupted", f"{interruption} at step {record['steps']}"
        raise RunError(f"{record['error']}; {_way_on(folder, record)}") from None
    except (RunError, UserError) as error:
        record["status"], record["error"] = "failed", str(error)
        raise
    except BaseException as error:
        record["status"], record["error"] = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
        raise
    finally:
        record["timing"]["ended"] = now()
        record["timing"]["seconds"] = round(time.perf_counter() - started, 3)
        write_record(folder.record, record)


def _way_on(folder: RunFolder, record: Record) -> str:
    if record["last_checkpoint"] is None:
        return f"no checkpoint had been written in {folder.path}"
    return f"the same command with ckpt=last goes on from {record['last_checkpoint']}"


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGINT and SIGTERM raise ``Interrupted`` in the main thread."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
