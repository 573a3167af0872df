"""Known runs: finished runs of a sweep in another folder, which count as made."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os.path import relpath
from pathlib import Path

from ttt.config.errors import UserError, bad_value
from ttt.launch.plan import PlannedRun, SweepFolder
from ttt.launch.status import ACTIVE, RunStatus, is_finished, read_record_of
from ttt.results.atomic import write_text
from ttt.results.folders import find_run
from ttt.results.record import RECORD_FILE, Record
from ttt.results.versioned import read_versioned

SCHEMA_VERSION = 1


def read_known_runs(folder: Path, runs: Iterable[PlannedRun]) -> dict[str, Record]:
    """Return the records of the runs that lie finished below ``folder``, by run_id; see ``ttt.results.folders``.

    Raises:
        UserError: the folder does not exist or has no runs, or a record of one of the runs cannot be read.
    """
    if not folder.is_dir():
        raise bad_value("known", shown(folder), "no such folder; known=null does without one")
    if next(folder.glob(f"*/{RECORD_FILE}"), None) is None:
        raise bad_value("known", shown(folder), f"has no runs (FOLDER/NAME/{RECORD_FILE})")
    known = {}
    for run in runs:
        found = find_run(folder, run.run_id)
        record = read_record_of(found) if found else None
        if isinstance(record, UserError):
            raise record
        if record is not None and record["run_id"] == run.run_id and is_finished(run, record):
            known[run.run_id] = record
    return known


def with_known(statuses: Sequence[RunStatus], folder: Path, known: Iterable[str]) -> list[RunStatus]:
    """Return the statuses; known runs count as finished, except parents of runs that are not.

    A known run has no checkpoint, so that another run can start from its weights only after it is trained here. Runs
    that wait or run keep their state, so that they can be watched and cancelled.

    Args:
        statuses: status of the sweep's runs, parents before their children.
        folder: the folder of the known runs.
        known: their run ids.
    """
    ids, needed, found = set(known), set[str | None](), list[RunStatus]()
    for status in reversed(statuses):
        run = status.run
        if run.run_id in ids and status.state != "finished":
            status = replace(status, known=find_run(folder, run.run_id))
            if status.state not in ACTIVE and run.run_id not in needed:
                status = RunStatus(run, "finished", f"in {shown(folder)}", steps=run.steps, known=status.known)
        if status.state != "finished":
            needed.add(run.parent)
        found.append(status)
    return found[::-1]


def trained_again(statuses: Iterable[RunStatus]) -> list[str]:
    """Return the known runs that must be trained, because others start from their weights."""
    return [status.run.run_id for status in statuses if status.known and status.state not in (*ACTIVE, "finished")]


def check_same_data(folder: Path, known: Mapping[str, Record], runs: Iterable[PlannedRun]) -> None:
    """Check that the known runs and those of the sweep in ``runs=`` saw the same text where their settings are equal.

    Raises:
        UserError: two of them were made on data with different digests.
    """
    own = {run.run_id: read_record_of(Path(run.folder)) for run in runs}
    seen = dict[str, tuple[str, str]]()
    for run_id, record in (*known.items(), *own.items()):
        if not isinstance(record, dict) or not (digest := record["data"].get("digest")):
            continue
        settings = {key: value for key, value in record["config"].get("data", {}).items() if key != "cache_dir"}
        first, other = seen.setdefault(json.dumps(settings, sort_keys=True), (run_id, digest))
        if digest != other:
            reason = f"{first} and {run_id} were made on different data (digests {other[:12]} and {digest[:12]})"
            raise bad_value("known", shown(folder), f"{reason}; known=null counts no known runs")


def remember(folder: SweepFolder, known: Path | None) -> None:
    """Save the folder of known runs for later commands; None forgets it."""
    if known is None:
        folder.known.unlink(missing_ok=True)
    else:
        content = {"schema_version": SCHEMA_VERSION, "known": str(known)}
        write_text(folder.known, json.dumps(content, indent=1) + "\n")


def remembered(folder: SweepFolder) -> Path | None:
    """Return the folder of known runs that the last submission with ``known=`` named, or None.

    Raises:
        UserError: the file is broken.
    """
    if not folder.known.exists():
        return None
    remedy = "remove it, and submit the sweep again with known=FOLDER"
    content = read_versioned(folder.known, SCHEMA_VERSION, {"known"}, "the folder of known runs", "", remedy)
    return Path(content["known"])


def shown(folder: Path) -> str:
    """Return a path for messages, relative if it is below the working directory."""
    return relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
