"""JSON files that carry a ``schema_version``."""

import json
from collections.abc import Set
from pathlib import Path
from typing import Any

from ttt.config.errors import UserError


def read_versioned(path: Path, version: int, keys: Set[str], what: str, hint: str, remedy: str) -> dict[str, Any]:
    """Return the object in the JSON file ``path``, unknown keys included.

    A file of a newer version is read too, as long as it has the required keys.

    Args:
        path: the file.
        version: the ``schema_version`` that this package writes.
        keys: the required keys.
        what: the kind of file, such as "a run's record".
        hint: where such a file is found.
        remedy: how to repair a broken one.

    Raises:
        UserError: the file is missing, is no such object, or lacks a required key.
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
    missing = ", ".join(sorted(keys - found.keys()))
    if missing and its_version > version:
        newer = f"schema_version={its_version} is newer than {version}"
        raise UserError(f"{path}: {newer} and lacks {missing}; upgrade ttt-suite")
    if missing:
        raise UserError(f"{path}: lacks {missing}; {remedy}")
    return found
