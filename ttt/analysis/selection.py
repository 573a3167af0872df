"""The choice of some runs by their settings, as in ``select=data=pycode,size=w64``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ttt.analysis.varied import settings_table
from ttt.config.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

NAMED = ("model", "backbone", "size", "ctx", "data", "seed", "sweep", "start", "status", "kernel", "device", "name")
"""Columns of ``Results.runs`` besides settings that users may name, in place of the settings that they stand for."""

MOST_NAMED = 6
"""Number of values that an error message lists."""


def keys_table(results: Results) -> DataFrame:
    """Return every key that users may name, as a typed column: the columns ``NAMED``, then all settings."""
    settings = settings_table(results)
    return results.runs[[*NAMED]].join(settings[[key for key in settings if key not in NAMED]])


def selected(results: Results, text: str) -> Results:
    """Return the runs with the values of ``text``.

    Args:
        results: all runs.
        text: ``KEY=VALUE,KEY=VALUE``; further values of a key follow it without a key: ``size=w64,w128``.

    Raises:
        UserError: a key or a value that no run has, with the nearest; no run that has all values.
    """
    keys = keys_table(results)
    chosen = keys.index == keys.index
    for key, values in _parsed(text).items():
        if key not in keys:
            raise UserError(f"select={text}: no run has the key {key}; {nearest(key, keys.columns)}")
        texts = keys[key].map(as_text, na_action=None)
        for value in values:
            if not _equal(texts, value).any():
                raise UserError(f"select={text}: no run has {key}={value}; {nearest(value, _known(texts))}")
        chosen &= texts.map(lambda own, wanted=values: any(_same(own, value) for value in wanted)).to_numpy(bool)
    if not chosen.any():
        raise UserError(f"select={text}: no run has all of these values; leave some out")
    return only(results, set(results.runs.loc[chosen, "run_id"]))


def only(results: Results, run_ids: Collection[str]) -> Results:
    """Return the results of some runs, without benchmarks."""
    parts: dict[str, Any] = {}
    for entry in fields(results):
        value = getattr(results, entry.name)
        if entry.name in ("settings", "labels", "stopped"):
            parts[entry.name] = {run_id: own for run_id, own in value.items() if run_id in run_ids}
        elif "run_id" in getattr(value, "columns", ()):
            parts[entry.name] = value[value["run_id"].isin([*run_ids])].reset_index(drop=True)
    return replace(results, **parts, benchmarks=results.benchmarks.iloc[:0])


def nearest(name: str, known: Collection[str]) -> str:
    """Return the end of an error message: the known names that are nearest to ``name``, or a few of them."""
    known = sorted(set(map(str, known)))
    last = [other for other in known if other.rpartition(".")[2] == name]
    close = last or difflib.get_close_matches(name, known, n=2)
    if close:
        return f"did you mean {' or '.join(close[:2])}?"
    listed = ", ".join(known[:MOST_NAMED]) + (", ..." if len(known) > MOST_NAMED else "")
    return f"choose one of {listed}"


def as_text(value: object) -> str:
    """Return a value as the command line takes it: 0.1, true, null, [4,4]."""
    import pandas as pd

    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    if pd.api.types.is_scalar(value) and pd.isna(value):  # type: ignore[call-overload]
        return "null"
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).lower() if str(value) in ("True", "False") else str(value)


def _parsed(text: str) -> Mapping[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    key = ""
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if equals:
            key = name.strip()
        elif not key:
            raise UserError(f"select={text}: {word} has no key; write select=KEY=VALUE,KEY=VALUE")
        wanted.setdefault(key, []).append((value if equals else word).strip())
    return wanted


def _known(texts: Series) -> list[str]:
    return sorted(set(texts))


def _equal(texts: Series, value: str) -> Series:
    return texts.map(lambda own: _same(own, value))


def _same(own: str, value: str) -> bool:
    """Compare two texts as numbers if both are, otherwise as words; the digest after the name of data may be left out.

    ``1k`` is 1024, as in the names of contexts.
    """
    try:
        return float(own) == (1024 * float(value[:-1]) if value.endswith("k") else float(value))
    except ValueError:
        return value.lower() in (own.lower(), own.lower().partition(" (")[0])
