"""The schema of ``sweeps/``: base overrides, axes and rules define a set of runs.

An axis is a key or group of ``ttt-train`` with a list of values; a grid point has one value for every axis. The value
``default`` adds no override, for a key that some grid points do not have or must not set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

from ttt.config.cluster import RESOURCES
from ttt.config.errors import UserError, spelled

GridPoint = dict[str, str]

DEFAULT = "default"
"""The value of an axis that adds no override."""

ADDED_GROUPS = ("ablation",)
"""Groups without a default: Hydra takes them with ``+`` only, a sweep also without."""


@dataclass(frozen=True)
class SweepRule:
    """A rule for the grid points that match ``when`` and not ``unless``.

    Attributes:
        when: axis -> values; a grid point must match every axis named. Empty: every grid point matches.
        unless: axis -> values; a grid point that matches every axis named is left alone. Empty: none is.
        add: overrides added to these runs.
        skip: leave these runs out of the sweep.
        start_from: axis -> value: the run starts from the weights of the run that differs from it only in these axes.
            ``from`` in the file.
        resources: cluster keys for these runs.
    """

    when: dict[str, tuple[str, ...]]
    unless: dict[str, tuple[str, ...]] = field(default_factory=dict)
    add: tuple[str, ...] = ()
    skip: bool = False
    start_from: GridPoint = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)

    def matches(self, point: GridPoint) -> bool:
        """Return whether the rule applies to this grid point."""
        excepted = bool(self.unless) and _agrees(point, self.unless)
        return _agrees(point, self.when) and not excepted


def _agrees(point: GridPoint, values: dict[str, tuple[str, ...]]) -> bool:
    return all(_number(point[axis]) in map(_number, allowed) for axis, allowed in values.items())


def _number(text: str) -> float | str:
    """Return a number as such, so that 4e-2, which YAML reads as text, is 0.04; any other text as it is."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class SweepRun:
    """A run to compose: its grid point, overrides, resources, and the grid point of its parent, if any."""

    point: GridPoint
    overrides: tuple[str, ...]
    resources: dict[str, Any]
    parent: GridPoint | None


@dataclass(frozen=True)
class Sweep:
    """A file of ``sweeps/``."""

    name: str
    base: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    rules: tuple[SweepRule, ...]

    def runs(self) -> list[SweepRun]:
        """Return all runs, parents before their children; parents outside the grid are added.

        Raises:
            UserError: a rule starts from a run that another rule skips, or a run starts from itself.
        """
        runs: dict[tuple[str, ...], SweepRun] = {}
        for values in product(*self.axes.values()):
            point = dict(zip(self.axes, values, strict=True))
            if not self._is_skipped(point):
                self._add(point, runs, ())
        return list(runs.values())

    def _add(self, point: GridPoint, runs: dict[tuple[str, ...], SweepRun], children: tuple[GridPoint, ...]) -> None:
        """Add the run of a grid point, after its parent; ``children`` are the runs that led to it, to detect cycles."""
        key = tuple(point.values())
        if key in runs:
            return
        rules = [rule for rule in self.rules if rule.matches(point)]
        changes = [rule.start_from for rule in rules if rule.start_from]
        parent = {**point, **changes[-1]} if changes else None
        if parent is not None:
            if self._is_skipped(parent) or parent in (*children, point):
                why = "a rule skips" if self._is_skipped(parent) else "starts from it"
                raise UserError(
                    f"sweep={self.name}: {describe_point(point)} starts from {describe_point(parent)}, which {why}"
                )
            self._add(parent, runs, (*children, point))
        overrides = [*self.base, *(f"{axis}={value}" for axis, value in point.items() if value != DEFAULT)]
        overrides += [override for rule in rules for override in rule.add]
        resources = {key: value for rule in rules for key, value in rule.resources.items()}
        runs[key] = SweepRun(point, tuple(overrides), resources, parent)

    def _is_skipped(self, point: GridPoint) -> bool:
        return any(rule.skip for rule in self.rules if rule.matches(point))


def key_of(override: str) -> str:
    """Return the key of an override or of an axis, without ``+``."""
    return override.lstrip("+").partition("=")[0]


def with_plus(override: str) -> str:
    """Return an override, or the name of an axis, with ``+`` if it names a group that Hydra takes with ``+`` only."""
    return f"+{override.lstrip('+')}" if key_of(override) in ADDED_GROUPS else override


def describe_point(point: GridPoint) -> str:
    """Return a grid point as on the command line."""
    return " ".join(f"{axis}={value}" for axis, value in point.items())


def read_sweep(name: str, plain: object) -> Sweep:
    """Build the sweep from the content of its YAML file.

    Raises:
        UserError: an unknown key or a value of the wrong type.
    """
    content = _mapping(plain, name, "the file", ("base", "axes", "rules"))
    axes = _by_axis(content.get("axes", {}), name, "axes")
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep={name}: axes.{axis}={values}: must be a list of values")
    rules = content.get("rules", [])
    if not isinstance(rules, list):
        raise UserError(f"sweep={name}: rules={rules}: must be a list")
    return Sweep(
        name,
        _overrides(content.get("base", []), name, "base"),
        {axis: tuple(map(_text, values)) for axis, values in axes.items()},
        tuple(_rule(rule, name, f"rules[{number}]", list(axes)) for number, rule in enumerate(rules)),
    )


def _rule(plain: object, name: str, where: str, axes: list[str]) -> SweepRule:
    content = _mapping(plain, name, where, ("when", "unless", "add", "skip", "from", "resources"))
    when, unless = (_points(content.get(key, {}), name, f"{where}.{key}", axes) for key in ("when", "unless"))
    start_from = _by_axis(content.get("from", {}), name, f"{where}.from", axes)
    return SweepRule(
        when,
        unless,
        _overrides(content.get("add", []), name, f"{where}.add"),
        bool(content.get("skip", False)),
        {axis: _text(value) for axis, value in start_from.items()},
        dict(_mapping(content.get("resources", {}), name, f"{where}.resources", RESOURCES)),
    )


def _points(plain: object, name: str, where: str, axes: list[str]) -> dict[str, tuple[str, ...]]:
    """Return axis -> values as in a grid point; a single value needs no list."""
    named = _by_axis(plain, name, where, axes)
    return {axis: tuple(map(_text, values if isinstance(values, list) else [values])) for axis, values in named.items()}


def _by_axis(plain: object, name: str, where: str, known: Any = None) -> dict[str, Any]:
    """Return a mapping whose keys are axes, each as in ``with_plus``."""
    named = {with_plus(axis): values for axis, values in _mapping(plain, name, where).items()}
    return dict(_mapping(named, name, where, known))


def _mapping(plain: object, name: str, where: str, known: Any = None) -> Mapping[str, Any]:
    if not isinstance(plain, dict):
        raise UserError(f"sweep={name}: {where} is {plain!r}: must map keys to values")
    for key in plain:
        if known is not None and key not in known:
            raise UserError(f"sweep={name}: {where}: {key}: no such key; choose one of {', '.join(known)}")
    return cast(Mapping[str, Any], plain)


def _overrides(plain: object, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(plain, list):
        raise UserError(f"sweep={name}: {where}={plain}: must be a list of overrides such as size=125m")
    return tuple(with_plus(spelled(override)) for override in plain)


def _text(value: object) -> str:
    """Return a value of an axis as Hydra's parser writes it, so that a rule matches it however it was given."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else spelled(value)
