"""The vocabulary of ``sweeps/``: a base, axes and rules that together name a set of runs.

An axis is a key or a group of ``ttt-train`` and the values it takes; a point gives every axis one of them. The value
``default`` leaves the key as the other overrides have it, for a key that some points do not have or must not set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

from ttt.config.cluster import RESOURCES
from ttt.config.errors import UserError

Point = dict[str, str]

DEFAULT = "default"
"""The value of an axis that adds no override."""


@dataclass(frozen=True)
class Rule:
    """What holds for the points that ``when`` describes: for each named axis the values it applies to.

    Attributes:
        when: axis -> values; all must fit. No axis: every point.
        add: overrides for these runs.
        skip: whether there are no such runs.
        start_from: axis -> value: the run starts from the weights of the run that differs from it in these alone.
            ``from`` in the file.
        resources: keys of a cluster for these runs.
    """

    when: dict[str, tuple[str, ...]]
    add: tuple[str, ...] = ()
    skip: bool = False
    start_from: Point = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)

    def holds(self, point: Point) -> bool:
        """Whether the rule is about this point."""
        return all(point[axis] in values for axis, values in self.when.items())


@dataclass(frozen=True)
class Wanted:
    """A run to compose: its point, its overrides, what it asks for, and the point it starts from."""

    point: Point
    overrides: tuple[str, ...]
    resources: dict[str, Any]
    parent: Point | None


@dataclass(frozen=True)
class Sweep:
    """A file of ``sweeps/``."""

    name: str
    base: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]
    rules: tuple[Rule, ...]

    def changed(self, overrides: list[str]) -> "Sweep":
        """The sweep with overrides of the command line: an axis takes their values, any other key is every run's."""
        axes, base = dict(self.axes), list(self.base)
        for override in overrides:
            key, _, value = override.partition("=")
            if key in axes:
                axes[key] = tuple(value.split(","))
            else:
                base.append(override)
        return Sweep(self.name, tuple(base), axes, self.rules)

    def wanted(self) -> list[Wanted]:
        """Every run, each behind the one it starts from, which is added where no point asks for it.

        Raises:
            UserError: a rule starts from a run that a rule leaves out, or from itself.
        """
        found: dict[tuple[str, ...], Wanted] = {}
        for values in product(*self.axes.values()):
            point = dict(zip(self.axes, values, strict=True))
            if not self._skipped(point):
                self._add(point, found, ())
        return list(found.values())

    def _add(self, point: Point, found: dict[tuple[str, ...], Wanted], waiting: tuple[Point, ...]) -> None:
        key = tuple(point.values())
        if key in found:
            return
        parent = self._parent(point)
        if parent is not None:
            if self._skipped(parent) or parent in (*waiting, point):
                why = "a rule leaves out" if self._skipped(parent) else "starts from it"
                raise UserError(f"sweep={self.name}: {_say(point)} starts from {_say(parent)}, which {why}")
            self._add(parent, found, (*waiting, point))
        found[key] = self._one(point, parent)

    def _one(self, point: Point, parent: Point | None) -> Wanted:
        rules = [rule for rule in self.rules if rule.holds(point)]
        overrides = [*self.base, *(f"{axis}={value}" for axis, value in point.items() if value != DEFAULT)]
        overrides += [override for rule in rules for override in rule.add]
        resources = {key: value for rule in rules for key, value in rule.resources.items()}
        return Wanted(point, tuple(overrides), resources, parent)

    def _skipped(self, point: Point) -> bool:
        return any(rule.skip for rule in self.rules if rule.holds(point))

    def _parent(self, point: Point) -> Point | None:
        changes = [rule.start_from for rule in self.rules if rule.start_from and rule.holds(point)]
        return {**point, **changes[-1]} if changes else None


def read_sweep(name: str, plain: object) -> Sweep:
    """The sweep that a YAML's content describes.

    Raises:
        UserError: a key that does not exist, or a value of another kind than it must be.
    """
    content = _mapping(plain, name, "the file", ("base", "axes", "rules"))
    axes = _mapping(content.get("axes", {}), name, "axes")
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"sweep={name}: axes.{axis}={values}: must be a list of values")
    rules = content.get("rules", [])
    if not isinstance(rules, list):
        raise UserError(f"sweep={name}: rules={rules}: must be a list")
    return Sweep(
        name,
        _texts(content.get("base", []), name, "base"),
        {axis: tuple(map(as_text, values)) for axis, values in axes.items()},
        tuple(_rule(rule, name, f"rules[{number}]", list(axes)) for number, rule in enumerate(rules)),
    )


def as_text(value: object) -> str:
    """A value of the YAML as the command line has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _rule(plain: object, name: str, where: str, axes: list[str]) -> Rule:
    content = _mapping(plain, name, where, ("when", "add", "skip", "from", "resources"))
    when = _mapping(content.get("when", {}), name, f"{where}.when", axes)
    start_from = _mapping(content.get("from", {}), name, f"{where}.from", axes)
    return Rule(
        {axis: tuple(_each(values)) for axis, values in when.items()},
        _texts(content.get("add", []), name, f"{where}.add"),
        bool(content.get("skip", False)),
        {axis: as_text(value) for axis, value in start_from.items()},
        dict(_mapping(content.get("resources", {}), name, f"{where}.resources", RESOURCES)),
    )


def _each(values: object) -> Iterator[str]:
    yield from map(as_text, values if isinstance(values, list) else [values])


def _mapping(plain: object, name: str, where: str, known: Any = None) -> Mapping[str, Any]:
    if not isinstance(plain, dict):
        raise UserError(f"sweep={name}: {where} is {plain!r}: must map keys to values")
    for key in plain:
        if known is not None and key not in known:
            raise UserError(f"sweep={name}: {where}: {key}: no such key; choose one of {', '.join(known)}")
    return cast(Mapping[str, Any], plain)


def _texts(plain: object, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(plain, list):
        raise UserError(f"sweep={name}: {where}={plain}: must be a list of overrides such as size=125m")
    return tuple(map(as_text, plain))


def _say(point: Point) -> str:
    return " ".join(f"{axis}={value}" for axis, value in point.items())
