"""Bringing the results of a sweep together: records and metrics without checkpoints, and one table of all runs."""

import shutil
from copy import deepcopy
from pathlib import Path

import yaml

from ttt.analysis.store import load_results
from ttt.config.errors import UserError
from ttt.config.schema import Resolved
from ttt.launch.status import RunStatus
from ttt.results.atomic import replacing, write_text
from ttt.results.record import RunFolder, read_record, write_record

RUNS_TABLE = "runs.csv"

PLACES = (("runs_dir",), ("run_dir",), ("data", "cache_dir"), ("parent", "run"))
"""Keys of a configuration that say where on its machine a run found or put something."""


def collect(statuses: list[RunStatus], out: Path) -> Path:
    """Copies what figures need of every run that has a record; returns the table of all runs.

    Runs that are collected again replace what is there. Nothing of the runs' own folders changes. In the copies folders
    have their names alone, without the way there, which leads nowhere on another machine.

    Args:
        statuses: of the sweep's runs.
        out: a folder for ``ttt-plot runs=FOLDER``.

    Raises:
        UserError: no run has a record, or ``out`` cannot be written.
    """
    found = [status for status in statuses if RunFolder(Path(status.run.folder)).record.exists()]
    if not found:
        raise UserError("no run of this sweep has a record yet; ttt-sweep status shows what they do")
    try:
        for status in found:
            _copy(RunFolder(Path(status.run.folder)), RunFolder(out / status.run.run_id))
        table = out / RUNS_TABLE
        load_results(out).runs.drop(columns="run_dir").to_csv(table, index=False)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror}); choose another folder") from error
    return table


def _copy(run: RunFolder, to: RunFolder) -> None:
    to.path.mkdir(parents=True, exist_ok=True)
    for source, target in ((run.metrics, to.metrics), (run.inner_loss, to.inner_loss)):
        if source.exists():
            with source.open("rb") as original, replacing(target) as file:
                shutil.copyfileobj(original, file)
    record = read_record(run.record)
    record["config"] = _without_places(record["config"])
    write_text(to.config, yaml.safe_dump(record["config"], sort_keys=False))
    # The record last: a folder without one is no run.
    write_record(to.record, record)


def _without_places(config: Resolved) -> Resolved:
    """The configuration with the last part of every path of ``PLACES``."""
    changed = deepcopy(config)
    for *groups, key in PLACES:
        values = changed
        for group in groups:
            values = values.get(group, {})
        if values.get(key):
            values[key] = Path(values[key]).name
    return changed
