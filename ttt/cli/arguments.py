"""Command lines of names, flags and ``key=value``, for commands that Hydra does not run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttt.config.errors import UserError
from ttt.config.keys import refuse_renamed
from ttt.config.system import with_home

OLD_SPELLINGS = {"--results": "runs", "--out": "out"}
"""Former option -> key."""


@dataclass
class Arguments:
    """A parsed command line: names, such as of run folders, flags such as ``--all``, and values by key."""

    names: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)


def parse(words: Sequence[str], keys: Mapping[str, str], flags: Sequence[str] = ()) -> Arguments:
    """Parse a command line.

    A word with ``=`` is a name if it is no key and a file or folder has that name.

    Args:
        words: the command line.
        keys: key -> placeholder of its value, such as FOLDER.
        flags: the flags of the command.

    Raises:
        UserError: an unknown key or flag, a key without a value, or a former spelling.
    """
    parsed = Arguments()
    for word in words:
        name, equals, value = word.partition("=")
        if name in OLD_SPELLINGS and OLD_SPELLINGS[name] in keys:
            key = OLD_SPELLINGS[name]
            raise UserError(f"{name}: has been replaced; write {key}={keys[key]}")
        refuse_renamed(word, keys)
        if word.startswith("--") and name[2:] in keys:
            raise UserError(f"{word}: write {name[2:]}={value or keys[name[2:]]}")
        if word.startswith("-"):
            if word not in flags:
                raise UserError(f"{word}: no such flag; choose one of {', '.join([*flags, '--help'])}")
            parsed.flags.add(word)
        elif not equals or (name not in keys and os.path.lexists(with_home(word))):
            parsed.names.append(word)
        elif name not in keys:
            raise UserError(f"{word}: no such key; choose one of {', '.join(keys)}")
        elif not value:
            raise UserError(f"{word}: needs a value; write {name}={keys[name]}")
        else:
            parsed.values[name] = with_home(value) if keys[name] in ("FOLDER", "FILE") else value
    return parsed
