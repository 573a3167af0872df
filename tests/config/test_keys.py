"""Bounds, choices and meanings of keys, in one place for all commands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from ttt.cli.compose import SCHEMAS
from ttt.config.cluster import ClusterConfig
from ttt.config.errors import UserError
from ttt.config.keys import BOUNDS, check_keys, key, refuse_renamed
from ttt.config.layers import SHIPPED


@dataclass
class Inner:
    share: float = key(0.5, "a share", at_least=0, below=1)


@dataclass
class Outer:
    inner: Inner = key(Inner, "another configuration")
    count: int | None = key(None, "a number", at_least=1)
    rate: float = key(1.0, "a rate", above=0)
    seed: int = key(0, "a seed", at_least=0, at_most=7)
    kind: str = key("a", "a choice", choices=("a", "b"))
    sizes: list[int] = key(list, "a list", at_least=1)
    name: str = key("a", "a name", file_name=True)
    plain: int = -3


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"inner": Inner(1.0)}, "some.inner.share=1.0: must be at least 0 and below 1"),
        ({"inner": Inner(float("nan"))}, "some.inner.share=nan: must be at least 0 and below 1"),
        ({"count": 0}, "some.count=0: must be at least 1, or null"),
        ({"rate": 0.0}, "some.rate=0.0: must be positive"),
        ({"rate": float("inf")}, "some.rate=inf: must be finite"),
        ({"rate": 1e16}, "some.rate=1e+16: must be at most 1e+15"),
        ({"count": 10**30}, f"some.count={10**30}: must be at most 1e+15, or null"),
        ({"seed": 8}, "some.seed=8: must be at least 0 and at most 7"),
        ({"kind": "c"}, "some.kind=c: choose one of a, b"),
        *(
            (
                {"name": name},
                f"some.name={name}: is the name of a folder; give one without / or \\, that does not begin with a dot",
            )
            for name in ("../../escaped", "/etc", "a/b", "a\\b", "..", ".", "", " ", ".hidden", "a\0b")
        ),
        ({"sizes": [3, 0]}, "some.sizes=0: must be at least 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(changes: dict[str, Any], line: str) -> None:
    check_keys(Outer(), "some.")
    with pytest.raises(UserError) as refused:
        check_keys(Outer(**changes), "some.")
    assert str(refused.value) == line


def schemas() -> Iterator[type]:
    """Return all configuration classes, including groups."""
    todo: list[Any] = [*SCHEMAS.values(), *SHIPPED.values(), ClusterConfig]
    while todo:
        schema = todo.pop()
        yield schema
        todo += [hint for hint in get_type_hints(schema).values() if is_dataclass(hint)]


def test_every_number_has_bounds_and_every_key_a_meaning() -> None:
    for schema in schemas():
        hints = get_type_hints(schema)
        for field in fields(schema):
            where, rules = f"{schema.__name__}.{field.name}", field.metadata
            assert rules.get("help"), where
            kinds = {hints[field.name], *get_args(hints[field.name])}
            kinds |= {kind for each in kinds for kind in get_args(each)}
            if kinds & {int, float}:
                assert rules.keys() & {*BOUNDS, "choices"}, where


NAMES_A_FILE = re.compile(r"\b(?:folder|file|files|path)\b|\.(?:json|yaml|model)\b")


def test_every_key_that_names_a_folder_or_file_is_taken_as_typed_or_is_a_plain_name() -> None:
    for schema in schemas():
        hints = get_type_hints(schema)
        for field in fields(schema):
            if str in {hints[field.name], *get_args(hints[field.name])} and NAMES_A_FILE.search(field.metadata["help"]):
                assert field.metadata.keys() & {"free_text", "file_name"}, f"{schema.__name__}.{field.name}"


@pytest.mark.parametrize("name", ["run_dir", "runs_dir"])
def test_names_of_earlier_versions_are_refused(name: str) -> None:
    new = name.removesuffix("_dir")
    with pytest.raises(UserError, match=f"{name}=x: this key is now called {new}; write {new}=x"):
        refuse_renamed(f"{name}=x", ("run", "runs"))
    refuse_renamed(f"{name}=x", ("other",))
    refuse_renamed(f"{new}=x", ("run", "runs"))
