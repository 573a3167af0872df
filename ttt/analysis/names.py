"""Short names of keys and values for pictures: b = 8, eta = 0.3; only what differs is named."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ttt.analysis.labels import COMPARED_AT, EVERYWHERE, METHOD, METHOD_KEY, method_label
from ttt.analysis.seeds import differing_in_group
from ttt.analysis.selection import as_text

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.question import Axes
    from ttt.analysis.store import Results
    from ttt.config.label import Label

SYMBOLS = {
    "model.mini_batch_size": "b",
    "mini_batch_size": "b",
    "model.eta_base": "eta",
    "recipe.learning_rate": "learning rate",
    "learning_rate": "learning rate",
    "steps_planned": "steps",
    "ctx": "context",
    "ctx.length": "context",
}
"""Key -> the paper's symbol or word for it."""

IN_WORDS = {"b": "Mini-batch size b (tokens)", "eta": "Inner learning rate eta", "context": "Context (tokens)"}
"""Symbol -> label of an axis."""

MOST_DEPARTURES = 3
"""Settings that a label names; a run with more of them is named by their number."""


def short_name(key: str) -> str:
    """Return the paper's symbol of a key, or its last part; for a layer of a hybrid with the layer's name."""
    group, _, own = key.partition(".")
    in_hybrid = group == "model" and "." in own
    return own if in_hybrid else SYMBOLS.get(key, key.rpartition(".")[2])


def axis_name(key: str) -> str:
    """Return the label of the axis of a key: in words if it has a symbol, otherwise the key as users write it."""
    short = short_name(key)
    return IN_WORDS.get(short, short.capitalize() if key in SYMBOLS else key)


def shown_value(value: object) -> str:
    """Return a value for readers: whole numbers without a decimal point, other numbers with at most 4 digits."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def setting_name(key: str, value: object) -> str:
    """Return a setting for a label: ``b = 8``, or the value alone where it names itself."""
    return (
        shown_value(value) if key in ("model", "backbone", METHOD_KEY) else f"{short_name(key)} = {shown_value(value)}"
    )


def run_name(label: Label, start: str, departures: Mapping[str, Any] | None = None, mark: str = "") -> str:
    """Return the name of a method with its departures from the standard, such as ``TTT-MLP (M), mlp_hidden = 156``.

    Args:
        label: a run's label.
        start: column ``start`` of ``Results.runs``.
        departures: the departures to name; those of the label by default.
        mark: stands behind the method.
    """
    words = _in_short(label, label.departures if departures is None else departures)
    return ", ".join([method_label(label.model, label.backbone) + mark, *filter(None, [start, words])])


def _in_short(label: Label, named: Mapping[str, Any]) -> str:
    """Return departures in a few words: the row of Table 1 that they are, or the number of many."""
    words = []
    in_row = label.departures_of("model") if label.row else set()
    if len(in_row) > 1 and in_row <= named.keys():
        words = [f"row {label.row} of Table 1"]
        named = {key: value for key, value in named.items() if key not in in_row}
    if len(named) > MOST_DEPARTURES:
        return ", ".join([*words, f"{len(named)} other settings"])
    return ", ".join([*words, *(setting_name(key, value) for key, value in named.items())])


def shared_departures(labels: Iterable[Label]) -> dict[str, Any]:
    """Return the departures from the standard that all runs have."""
    first, *others = (label.departures for label in labels)
    return {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}


def changed_names(results: Results) -> list[str]:
    """Return for each run its departures from the standard, and other settings in which runs of its method differ.

    It replaces ``Results.runs.changed`` where a figure draws runs that depart from the standard: the text is empty
    only for a run with the standard settings. Departures that several methods share are not named but marked:
    ``EVERYWHERE``; ``everywhere_sentence`` names them.
    """
    labels = [results.labels[run_id] for run_id in results.runs["run_id"]]
    shared = everywhere(results, results.runs["run_id"])
    mark = [EVERYWHERE] if shared else []
    named = [{key: value for key, value in label.departures.items() if key not in shared} for label in labels]
    whole = [", ".join(setting_name(key, value) for key, value in settings.items()) for settings in named]
    short = [_in_short(label, settings) for label, settings in zip(labels, named, strict=True)]
    meanings = {words: {text for text, other in zip(whole, short, strict=True) if other == words} for words in short}
    own = [
        ", ".join(filter(None, [*mark, words if len(meanings[words]) == 1 else text]))
        for text, words in zip(whole, short, strict=True)
    ]
    groups = list(zip(*(results.runs[column] for column in (*COMPARED_AT, *METHOD)), own, strict=True))
    others = differing_in_group(groups, [results.settings[run_id] for run_id in results.runs["run_id"]])
    return [
        ", ".join(filter(None, [words, *(setting_name(key, value) for key, value in settings.items())]))
        for words, settings in zip(own, others, strict=True)
    ]


def everywhere(results: Results, run_ids: Collection[str]) -> dict[str, Any]:
    """Return the departures from the standard that all of these runs have, if they are of several methods."""
    labels = [results.labels[run_id] for run_id in run_ids]
    several = len({(label.model, label.backbone) for label in labels}) > 1
    return shared_departures(labels) if several else {}


def everywhere_sentence(departures: Mapping[str, Any]) -> str:
    """Return the sentence of a caption that names the departures of all runs, or an empty text."""
    words = ", ".join(setting_name(key, value) for key, value in departures.items())
    return f"{EVERYWHERE} {words} in all runs." if departures else ""


def line_names(table: DataFrame, axes: Axes, labels: Mapping[str, Label]) -> Series:
    """Return the name of each run's line, no two alike: the values of the keys of lines, and departures of its method.

    Departures that all runs have are left out, for the caption to name, and those that the axes show. Beside a method,
    a setting of the model or its size that is no number is named only where it departs from the standard.
    """
    import pandas as pd

    shared = shared_departures(labels[run_id] for run_id in table["run_id"])
    names = pd.Series("", index=table.index)
    groups = list(table.groupby(axes.lines, dropna=False).groups.values()) if axes.lines else [table.index]
    for index in groups:
        names[index] = _line_name(table, table.loc[index], axes, labels, shared)
    lines = names[[index[0] for index in groups]]
    for index in groups:
        if (lines == names[index[0]]).sum() > 1:
            values = table.loc[index[0], axes.lines].dropna()
            names[index] = ", ".join(setting_name(str(key), value) for key, value in values.items())
    return names


def _line_name(
    table: DataFrame, rows: DataFrame, axes: Axes, labels: Mapping[str, Label], shared: Mapping[str, Any]
) -> str:
    first, label = rows.iloc[0], labels[rows["run_id"].iloc[0]]
    values = {key: first[key] for key in axes.lines if key != METHOD_KEY}
    values = {key: value for key, value in values.items() if as_text(value) != "null"}
    if values and METHOD_KEY not in axes.lines:
        return ", ".join(setting_name(key, value) for key, value in values.items())
    named = [key for key in values if not key.startswith(("model.", "size.")) or table[key].dtype.kind in "if"]
    shown = tuple(key for key in (*named, axes.x, axes.z) if "." in key)
    departures = {
        key: value
        for key, value in shared_departures(labels[run_id] for run_id in rows["run_id"]).items()
        if key not in shared and not key.startswith(shown)
    }
    marked = EVERYWHERE if any(not key.startswith(shown) for key in shared) else ""
    method = run_name(label, first["start"], departures, marked)
    return ", ".join([method, *(setting_name(key, values[key]) for key in named)])
