"""The answer to a question about any runs: which runs are points of which line in which panel, and which are left out.

Runs that agree in all settings differ only in seed and are one point. Settings in which runs of one point would differ
otherwise become lines of their own, so that a mean never mixes settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttt.analysis.comparison import NOT_LEARNED_FROM, is_whole
from ttt.analysis.labels import LAYERS, METHOD_KEY, method_label
from ttt.analysis.measures import MEASURED_BY, OF_ITS_TEXT, OF_SPEED, Measure, measure, measure_names
from ttt.analysis.names import line_names
from ttt.analysis.selection import as_text, keys_table, nearest
from ttt.config.errors import UserError, counted

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from ttt.analysis.store import Results

PANEL = ("data", "ctx")
"""Keys whose values have panels of their own, because losses at other data or contexts do not compare."""

RUN_KEYS = ("data", "size", "ctx", "model", "backbone", "start")
"""Keys that the table of every comparison has."""

NAMED_APART = ("model.name", "backbone.name", "size.name", "ctx.length", "steps_planned")
"""Settings that other keys stand for."""

FIRST = ("model.mini_batch_size", "model.eta_base", "recipe.learning_rate")
"""Keys that name a difference where several keys could."""

LEAST_VALUES = 3
"""Number of values from which a number is chosen for the x axis where methods differ too."""

MOST_LINES, MOST_BARS = 16, 40
"""Numbers of lines in a picture, and of bars in a panel, that can be read."""

MOST_KEYS = 4
"""Number of keys that a message lists."""


@dataclass(frozen=True)
class Question:
    """What to compare: a measured value ``y``, and keys or measured values for the axes and lines.

    If ``x`` is empty, it is chosen. ``z`` makes a heat map.
    """

    x: str = ""
    y: str = "perplexity"
    z: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axes:
    """The keys of a picture.

    Attributes:
        x: key or measured value of the x axis; empty if a bar is drawn for each combination of ``lines``.
        z: key of the second axis of a heat map, or empty.
        lines: keys of lines, or of bars.
        panel: keys whose values have panels of their own.
        extra: those of ``lines`` that nobody asked for.
    """

    x: str
    z: str
    lines: list[str]
    panel: list[str]
    extra: list[str]

    @property
    def keys(self) -> list[str]:
        """All keys."""
        return list(dict.fromkeys(filter(None, [*self.panel, *self.lines, self.x, self.z])))


@dataclass(frozen=True)
class Comparison:
    """The answer to a question.

    Attributes:
        table: one row per run that is drawn: run_id, ``RUN_KEYS``, the keys of the axes, seed; ``line``, the name of
            its line or bar; ``point``, equal for runs that differ only in seed; ``parameters``; and the measured values
            of the axes. Sorted by the keys of panels and lines.
        axes: the keys of the picture.
        y: the measured value on the y axis, of all runs.
        x: the measured value on the x axis; None if a key is there.
        along: settings that change along a line together with ``x``.
        left_out: the reason why runs are not drawn, and the number of these runs.
        results: the runs.
    """

    table: DataFrame
    axes: Axes
    y: Measure
    x: Measure | None
    along: list[str]
    left_out: dict[str, int]
    results: Results


def compare_runs(results: Results, question: Question) -> Comparison:
    """Return the runs that answer a question.

    Raises:
        UserError: a key or measured value that no run has, with the nearest; nothing to compare.
    """
    y = _measured(results, "y", question.y)
    keys = _keys(results)
    for option, name in [("x", question.x), ("z", question.z), *(("lines", key) for key in question.lines)]:
        _check_key(keys, results, option, name)
    has_y = y.values.notna()
    _refuse_other_data(keys[has_y], y.name, question)
    left_out = _without(results, ~has_y, y.name)
    rows = _Rows(keys[has_y], _candidates(keys, y.name))
    if len(rows.keys) < 2:
        raise UserError(
            f"y={y.name}: {len(rows.keys)} of {counted(len(results.runs), 'run')} has it, nothing to compare; "
            f"{_states(results.runs[~has_y])}"
        )
    axes = _axes(rows, question)
    x = None if axes.x in ("", *keys) else _measured(results, "x", axes.x)
    for option, key in (("x", question.x), ("z", question.z)):
        if key in keys:
            _refuse_constant(rows, option, key, axes.panel)
    table = rows.keys.assign(point=rows.points([*(axes.keys if x is None else axes.lines), *PANEL]))
    measured = {value.name: value.values.astype(float) for value in (y, x) if value}
    table = table.assign(**{"parameters": results.runs["parameters"]} | measured)
    # A line without the key of the x axis is drawn across; a point or a cell needs its place.
    needed = [key for key in (axes.x if x or axes.z else "", axes.z) if key]
    lacking = table[needed].isna().any(axis=1)
    left_out |= _without(results, lacking.reindex(keys.index, fill_value=False), " or ".join(needed))
    table = _sorted(table[~lacking], axes)
    _refuse_many(table, axes)
    table["line"] = line_names(table, axes, results.labels)
    columns = ["run_id", *RUN_KEYS, *axes.keys, "line", "seed", "point", "parameters", *measured]
    # Where eta_base is an axis, a start that follows it needs no word.
    departing = {key for run_id in table["run_id"] for key in results.labels[run_id].departures}
    along = [
        key
        for key in rows.differing([*axes.panel, *axes.lines])
        if key not in axes.keys and (not key.startswith("model.") or key in departing)
    ]
    unnamed = [] if x or not axes.x else along
    return Comparison(table[list(dict.fromkeys(columns))], axes, y, x, unnamed, left_out, results)


@dataclass(frozen=True)
class _Rows:
    """The keys of runs, and the keys in which they may differ, those that name a difference best first."""

    keys: DataFrame
    candidates: list[str]

    def differing(self, fixed: Sequence[str]) -> list[str]:
        """Return the candidates in which runs differ that agree in the keys ``fixed``."""
        others = [key for key in self.candidates if key not in fixed]
        groups = self.keys.groupby([*fixed], dropna=False, observed=True) if fixed else self.keys
        numbers: Any = groups[others].nunique(dropna=False)
        most = numbers.max() if fixed else numbers
        return [key for key in others if most[key] > 1]

    def explain(self, fixed: Sequence[str]) -> list[str]:
        """Return the fewest further keys with which runs that agree in all of these keys differ only in seed."""
        added: list[str] = []
        while found := self.differing([*fixed, *added]):
            added.append(found[0])
        return added

    def most_values(self, key: str, fixed: Sequence[str]) -> int:
        """Return the largest number of values of ``key`` among runs that agree in the keys ``fixed``."""
        groups = self.keys.groupby([*fixed], dropna=False, observed=True) if fixed else self.keys
        numbers: Any = groups[[key]].nunique()
        return int(numbers.max().max() if fixed else numbers.max())

    def is_number(self, key: str) -> bool:
        """Return whether the values of ``key`` are numbers."""
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        return is_numeric_dtype(self.keys[key]) and not is_bool_dtype(self.keys[key])

    def points(self, keys: Sequence[str]) -> Series:
        """Return a number for each run, equal for runs that agree in ``keys`` and all candidates."""
        columns = list(dict.fromkeys([*keys, *self.differing([])]))
        return self.keys.groupby(columns, dropna=False, observed=True).ngroup()


def _keys(results: Results) -> DataFrame:
    """Return every key that users may name, as ``keys_table`` does, with the method; ``steps``: of runs cut short."""
    runs = results.runs
    methods = [
        ", ".join(filter(None, [method_label(model, backbone), start]))
        for model, backbone, start in zip(runs["model"], runs["backbone"], runs["start"], strict=True)
    ]
    whole = is_whole(runs) & ~runs["run_id"].isin([*results.stopped])
    steps = runs["steps"].astype("Float64").mask(whole)
    return keys_table(results).assign(method=methods, steps=steps, run_id=runs["run_id"])


def _candidates(keys: DataFrame, measured: str) -> list[str]:
    """Return the keys that can tell runs apart, those that name a difference best first."""
    settings = [
        key
        for key in map(str, keys)
        if "." in key and key not in NAMED_APART and not key.startswith(("data.", "parent."))
    ]
    if measured not in OF_SPEED:
        settings = [key for key in settings if key not in NOT_LEARNED_FROM]
    first = [key for key in FIRST if key in settings]
    values = keys[settings].nunique()
    others = sorted((key for key in settings if key not in first), key=lambda key: (-values[key], key))
    return [METHOD_KEY, "size", *first, *others, "steps"]


def _axes(rows: _Rows, question: Question) -> Axes:
    """Return the axes that were asked for, and choose the others."""
    given = [key for key in (question.x, question.z, *question.lines) if key]
    panel = [key for key in PANEL if not any(name == key or name.startswith(f"{key}.") for name in given)]
    measured = question.x not in ("", *rows.keys)
    if measured:
        extra = [key for key in rows.explain([*panel, *question.lines]) if key != "size" and not _of_size(key)]
        return Axes(question.x, "", [*question.lines, *extra], panel, extra if question.lines else [])
    if question.x:
        extra = rows.explain([*panel, *given])
        if question.z or rows.is_number(question.x):
            lines, x = [*question.lines, *extra], question.x
        else:
            lines, x = [question.x, *question.lines, *extra], ""
        return Axes(x, question.z, lines, panel, extra if question.lines else [])
    return _chosen_axes(rows, list(question.lines), panel)


def _chosen_axes(rows: _Rows, lines: list[str], panel: list[str]) -> Axes:
    """Choose the x axis: the number with the most values; parameters, if sizes differ; otherwise a bar for each case.

    Raises:
        UserError: the runs differ only in seed.
    """
    found = rows.explain([*panel, *lines])
    if not found and not lines and rows.keys["ctx"].nunique() > 1:
        return Axes("ctx", "", [], ["data"], [])
    if not found and not lines and rows.most_values("data", []) < 2:
        raise UserError(
            f"nothing to compare: the {counted(len(rows.keys), 'run')} differ only in seed; name other runs with runs="
        )
    values = {key: rows.most_values(key, [*panel, *lines, *_without_key(found, key)]) for key in found}
    numbers = [key for key in found if rows.is_number(key) and key != "steps"]
    x = max(numbers, key=lambda key: values[key], default="")
    if x and values[x] >= (LEAST_VALUES if METHOD_KEY in found else 2):
        return Axes(x, "", [*lines, *_without_key(found, x)], panel, [])
    if "size" in found and values["size"] > 1:
        return Axes("parameters", "", [*lines, *_without_key(found, "size")], panel, [])
    return Axes("", "", [*lines, *found] or [METHOD_KEY], panel, [])


def _without_key(keys: Sequence[str], key: str) -> list[str]:
    return [other for other in keys if other != key]


def _of_size(key: str) -> bool:
    return key.startswith(("size.", "recipe.steps", "recipe.tokens_per_step", "recipe.learning_rate"))


def _measured(results: Results, option: str, name: str) -> Measure:
    found = measure(results, name)
    if found is None:
        raise UserError(f"{option}={name}: no run has this measured value; {nearest(name, measure_names(results))}")
    if not found.values.notna().any():
        source = f"; {MEASURED_BY[name]}" if name in MEASURED_BY else ""
        states = ", ".join(f"{count} {status}" for status, count in _statuses(results.runs))
        raise UserError(f"{option}={name}: none of {counted(len(results.runs), 'run')} has it ({states}){source}")
    return found


def _check_key(keys: DataFrame, results: Results, option: str, name: str) -> None:
    """Refuse a key that no run has; ``x`` may also be a measured value."""
    if not name or name in keys:
        return
    measures = measure_names(results) if option == "x" else []
    if name not in measures:
        kind = "key or measured value" if option == "x" else "key"
        raise UserError(f"{option}={name}: no run has this {kind}; {nearest(name, [*keys, *measures])}")


def _refuse_constant(rows: _Rows, option: str, key: str, panel: list[str]) -> None:
    values = rows.keys[key].dropna().unique()
    if len(values) < 2:
        has = f"all runs have {as_text(values[0])}" if len(values) else "no run that was evaluated has it"
        others = [other for other in rows.differing(panel) if other != key][:MOST_KEYS]
        differ = f"; they differ in {', '.join(others)}" if others else ""
        raise UserError(f"{option}={key}: {has}{differ}")


def _refuse_other_data(keys: DataFrame, measured: str, question: Question) -> None:
    """Refuse to draw values of other texts on one axis, where they do not compare."""
    for option, name in [("x", question.x), ("z", question.z), *(("lines", key) for key in question.lines)]:
        if name.partition(".")[0] == "data" and measured in OF_ITS_TEXT and keys["data"].nunique() > 1:
            texts = ", ".join(sorted(keys["data"].unique())[:MOST_KEYS])
            raise UserError(
                f"{option}={name}: {measured} of other data does not compare ({texts}); leave {option}= out, so that "
                f"each has axes of its own, or compare y=bits_per_byte"
            )


def _refuse_many(table: DataFrame, axes: Axes) -> None:
    if not axes.lines:
        return
    lines = table.groupby(axes.lines, dropna=False).ngroups
    if lines > (MOST_LINES if axes.x else MOST_BARS):
        raise UserError(
            f"too much for one picture: {lines} {'lines' if axes.x else 'bars'}, because the runs differ in "
            f"{', '.join(axes.lines)}; keep some of the runs with select=KEY=VALUE"
        )


def _without(results: Results, missing: Series, name: str) -> dict[str, int]:
    """Return reasons with the number of runs that lack the value ``name``."""
    states = results.runs.loc[missing.to_numpy(bool), "status"].value_counts().sort_index()
    return {f"without {name} ({status})": int(count) for status, count in states.items()}


def _states(runs: DataFrame) -> str:
    return "the others are " + ", ".join(f"{status} ({count})" for status, count in _statuses(runs))


def _statuses(runs: DataFrame) -> list[tuple[str, int]]:
    return [(str(status), int(count)) for status, count in runs["status"].value_counts().sort_index().items()]


def _sorted(table: DataFrame, axes: Axes) -> DataFrame:
    ranks = table["model"].map({name: rank for rank, name in enumerate(LAYERS)}).fillna(len(LAYERS))
    keys = [key for key in dict.fromkeys([*axes.panel, *axes.lines, axes.x, axes.z, "seed"]) if key]
    by = ["rank" if key == METHOD_KEY else key for key in keys]
    return table.assign(rank=ranks).sort_values([*by, "run_id"], na_position="first")
