"""Collecting the results of a sweep: records and metrics, without checkpoints."""

import filecmp
import shutil
from copy import deepcopy
from pathlib import Path

from ttt.config.errors import UserError
from ttt.config.schema import Resolved
from ttt.launch.status import RunStatus
from ttt.results.atomic import remove_partials, replacing
from ttt.results.folders import find_run
from ttt.results.record import Record, RunFolder, read_record, write_config, write_record

PATH_KEYS = (("runs",), ("run",), ("runs_dir",), ("run_dir",), ("data", "cache_dir"), ("parent", "run"))
"""Present and former configuration keys whose value is a path on the training machine."""


def copy_results(statuses: list[RunStatus], out: Path) -> list[str]:
    """Copy the files that figures need from every run that has a record; return a line per run that was not copied.

    Other runs in ``out`` are left alone. A run that is collected again replaces its earlier copy where they differ,
    but never a finished copy of another training of the same run, which the lines name. The run folders do not change.
    In the copies, paths on the training machine are shortened to their last part.

    Args:
        statuses: status of the sweep's runs.
        out: the folder to write, for ``ttt-plot runs=``.

    Raises:
        UserError: no run has a record, or ``out`` cannot be written.
    """
    folders = {status.run.run_id: RunFolder(status.known or Path(status.run.folder)) for status in statuses}
    recorded = {run_id: folder for run_id, folder in folders.items() if folder.record.exists()}
    if not recorded:
        raise UserError("no run of this sweep has a record yet; ttt-sweep status shows the state of each")
    kept = [_copy(run, RunFolder(find_run(out, run_id) or out / run.path.name)) for run_id, run in recorded.items()]
    return [line for line in kept if line]


def _copy(run: RunFolder, copy: RunFolder) -> str | None:
    """Copy one run; return a line if a copy of another training is kept instead."""
    if run.path.resolve() == copy.path.resolve():
        return None
    record = read_record(run.record)
    record["config"] = _with_short_paths(record["config"])
    record.pop("started_in", None)
    before = _record_or_none(copy)
    if before and before["status"] == "finished" and before["timing"]["started"] != record["timing"]["started"]:
        return f"kept: {copy.path} is another training of this run; remove it to collect {run.path}"
    remove_partials(copy.path)
    tables = [run.metrics, *run.tables, *sorted(run.evaluations.glob("*.parquet"))]
    for source, target in ((table, copy.path / table.relative_to(run.path)) for table in tables):
        if source.exists() and not (target.exists() and filecmp.cmp(source, target, shallow=False)):
            with source.open("rb") as original, replacing(target) as file:
                shutil.copyfileobj(original, file)
    if before != record or not copy.config.exists():
        write_config(copy, record)
        # The record is written last: a folder without one does not count as a run.
        write_record(copy.record, record)
    return None


def _record_or_none(folder: RunFolder) -> Record | None:
    """Return the record of a copy; None if it is missing or damaged, so that the run is copied again."""
    try:
        return read_record(folder.record)
    except UserError:
        return None


def _with_short_paths(config: Resolved) -> Resolved:
    """Return the configuration with every path of ``PATH_KEYS`` shortened to its last part."""
    changed = deepcopy(config)
    for *groups, key in PATH_KEYS:
        values = changed
        for group in groups:
            values = values.get(group, {})
        if values.get(key):
            values[key] = Path(values[key]).name
    return changed
