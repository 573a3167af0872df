"""JSON files that say which version of this package's formats they have."""

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from ttt.config.errors import UserError


def read_versioned(path: Path, version: int, keys: Set[str], what: str, hint: str, remedy: str) -> dict[str, Any]:
    """The object in the JSON file ``path``.

    Args:
        path: the file.
        version: the newest ``schema_version`` that is understood.
        keys: what the object must hold besides.
        what: what it should be, such as "a run's record".
        hint: where such a file is found.
        remedy: what to do with one that is broken.

    Raises:
        UserError: no such file, not such an object, or one that a newer version of this package wrote.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {hint}") from error
    except ValueError as error:
        raise UserError(f"{path}: not {what} ({error}); {remedy}") from error
    its_version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(its_version, int):
        raise UserError(f"{path}: not {what} (no schema_version); {remedy}")
    if its_version > version:
        raise UserError(f"{path}: schema_version={its_version} is newer than {version}; upgrade ttt-suite")
    missing = sorted(keys - found.keys())
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {remedy}")
    return found
