"""Bringing the results of a sweep together: records and metrics without checkpoints, and one table of all runs."""

import shutil
from pathlib import Path

from ttt.config.errors import UserError
from ttt.launch.status import RunStatus
from ttt.results.record import RunFolder
from ttt.results.store import load_results

RUNS_TABLE = "runs.csv"


def collect(statuses: list[RunStatus], out: Path) -> Path:
    """Copies what figures need of every run that has a record; returns the table of all runs.

    Runs that are collected again replace what is there. Nothing of the runs' own folders changes.

    Args:
        statuses: of the sweep's runs.
        out: a folder for ``ttt-plot --results``.

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
    # The record last: a folder without one is no run.
    for source, target in (
        (run.config, to.config),
        (run.metrics, to.metrics),
        (run.inner_loss, to.inner_loss),
        (run.record, to.record),
    ):
        if source.exists():
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(source, partial)
            partial.replace(target)
