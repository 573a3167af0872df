"""Keys of a configuration: a dataclass field with the key's default, meaning and allowed values."""

import math
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from functools import cache
from typing import Any, cast, get_args, get_type_hints

from ttt.config.errors import UserError, bad_value

REQUIRED = "???"
"""The default of a key that must be given; OmegaConf refuses to read it."""

BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}

LARGEST = 10**15
"""Of numbers that have no upper bound of their own: counts beyond it overflow when they are multiplied."""

OTHER_RULES = {"choices", "not_empty", "file_name", "hidden", "free_text", "formerly"}

LARGEST_SEED = 2**32 - 1
"""Of NumPy's global generator, which Lightning seeds together with torch's."""

MOST_WORKERS = 4096
"""Threads or processes on one machine."""

RENAMED = {"run_dir": "run", "runs_dir": "runs", "results": "runs", "forms": "kernels"}
"""Former name of a key -> present name."""


def key(default: Any, meaning: str, **rules: Any) -> Any:
    """Return the dataclass field of a key.

    Args:
        default: the default value, or a class such as ``list`` or ``SizeConfig``, or another function, that creates it.
        meaning: the text of ``--help``.
        rules: checked by ``check_keys``, in a list for each value: the bounds ``at_least``, ``above``, ``at_most`` and
            ``below``, which also exclude infinity and numbers above ``LARGEST``; ``choices``, a tuple of all allowed
            values; ``not_empty=True`` for a list; ``file_name=True`` for a text that becomes the name of a folder or a
            part of it. ``hidden=True`` omits the key, or the keys of a group, from ``--help``. ``free_text=True``: see
            ``free_text_keys``.
            ``formerly``: value of an earlier version, as in old records -> present value.
    """
    if unknown := rules.keys() - BOUNDS.keys() - OTHER_RULES:
        raise TypeError(f"no such rule: {', '.join(sorted(unknown))}")
    metadata = {"help": meaning, **rules}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def free_text_keys(schema: type[Any], prefix: str = "") -> frozenset[str]:
    """Return the keys of a schema and of its groups that are a path or other free text, taken as typed.

    Commas, brackets, quotes, ``=`` and blanks have no meaning in their values.
    """
    hints, found = get_type_hints(schema), set[str]()
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            found |= free_text_keys(hints[item.name], f"{prefix}{item.name}.")
        elif item.metadata.get("free_text"):
            found.add(f"{prefix}{item.name}")
    return frozenset(found)


def check_keys(config: object, prefix: str = "") -> None:
    """Check every key of a configuration, and of the configurations in it, against the rules of its field.

    Raises:
        UserError: a value that is out of bounds, not among the choices or no name of a folder, or an empty list.
    """
    for item in fields(cast(Any, config)):
        name, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            check_keys(value, f"{name}.")
        if item.metadata.get("not_empty") and not value:
            raise bad_value(name, "[]", "give at least one value")
        choose = "choose from" if isinstance(value, list) else "choose one of"
        for element in _values(value):
            if element is not None and (allowed := _allowed_instead_of(element, item.metadata, choose)):
                raise bad_value(name, element, allowed + (", or null" if type(None) in get_args(item.type) else ""))


def refuse_renamed(argument: str, known: Collection[str]) -> None:
    """Refuse ``key=value``, ``--key=value`` and ``--key`` if the key has another name today.

    Args:
        argument: a word of the command line.
        known: keys of the command.

    Raises:
        UserError: the key was renamed.
    """
    word, equals, value = argument.partition("=")
    name = word.removeprefix("--")
    new = RENAMED.get(name)
    if (equals or word != name) and new in known and name not in known:
        raise UserError(f"{argument}: this key is now called {new}; write {new}={value or 'VALUE'}")


def _is_file_name(value: Any) -> bool:
    text = str(value)
    return text.isprintable() and bool(text.strip()) and text[0] != "." and not {"/", "\\"} & {*text}


def _values(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _allowed_instead_of(value: Any, rules: Mapping[str, Any], choose: str) -> str | None:
    """Return the end of an error message, with the allowed values, or None if ``value`` is allowed."""
    choices = rules.get("choices")
    if choices is not None and value not in choices:
        return f"{choose} {', '.join(map(str, choices))}"
    if rules.get("file_name") and not _is_file_name(value):
        return "is the name of a folder; give one without / or \\, that does not begin with a dot"
    bounds = {name: rules[name] for name in BOUNDS if name in rules}
    if bounds and not isinstance(value, int | float):
        return "must be a number"
    if all(BOUNDS[name](value, bound) for name, bound in bounds.items()):
        if bounds and value > LARGEST:
            return "must be finite" if math.isinf(value) else f"must be at most {LARGEST:.0e}"
        return None
    words = [f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items()]
    return f"must be {' and '.join(words).replace('above 0', 'positive')}"
