"""The records of many runs as one table."""

import warnings
from os import PathLike
from pathlib import Path

import pandas as pd

from ttt.analysis.store import load_results
from ttt.analysis.varied import varied
from ttt.api.errors import as_value_error
from ttt.config.errors import counted


@as_value_error()
def load_runs(folder: str | PathLike[str] = "runs") -> pd.DataFrame:
    """Return the records of all runs below a folder, one row per run.

    Args:
        folder: a folder of runs, at any depth.

    Returns:
        The columns of ``Results.runs`` (``ttt.analysis.store``), such as ``model``, ``ctx``, ``seed``, ``status``,
        ``steps``, ``parameters`` and ``validation_perplexity``, and a column for every other key of the configuration
        in which the runs differ, such as ``model.eta_base``: numbers or booleans if all its values are, otherwise
        text. A value is missing where the run has no such key or it is null.

    Raises:
        ValueError: no such folder.

    Warns:
        UserWarning: a file that could not be read and is left out, or a second copy of a run.
    """
    results = load_results(Path(folder).expanduser(), strict=False)
    for line in results.unreadable:
        warnings.warn(f"left out: {line}", stacklevel=3)
    if results.left_out:
        copies = counted(len(results.left_out), "folder")
        warnings.warn(f"left out: {copies} with another copy of a run that is in the table", stacklevel=3)
    return results.runs.join(varied(results))
