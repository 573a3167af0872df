"""The settings of runs as typed columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results


def settings_table(results: Results) -> DataFrame:
    """Return a column for every setting that affects what a run learns, except the seed, in the order of the runs.

    A column has numbers or booleans if all its values are, otherwise text. A value is missing where the run has no
    such key or it is null.
    """
    return _as_text(results).apply(_typed)


def varied(results: Results) -> DataFrame:
    """Return the columns of ``settings_table`` in which runs differ and that ``Results.runs`` does not have."""
    # Imported here: the module imports pandas, which the list of figures does not need.
    from ttt.analysis.run_rows import RUN_COLUMNS

    settings = _as_text(results)
    present = {key.removeprefix("config.") for key, _ in RUN_COLUMNS.values()} | {*results.runs.columns}
    differing = [key for key in settings if settings[key].nunique(dropna=False) > 1 and key not in present]
    return settings[differing].apply(_typed)


def _as_text(results: Results) -> DataFrame:
    import pandas as pd

    return pd.DataFrame([results.settings[run_id] for run_id in results.runs["run_id"]], dtype="string")


def _typed(column: Series) -> Series:
    """Return a column of text as booleans or numbers if all its values are; the text "None" is a missing value."""
    import pandas as pd

    column = column.mask(column == "None")
    if column.dropna().isin(["True", "False"]).all():
        return column.map({"True": True, "False": False}).astype("boolean")
    try:
        return pd.to_numeric(column)
    except ValueError:
        return column
