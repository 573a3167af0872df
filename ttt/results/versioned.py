"""JSON files with a ``schema_version``."""

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from ttt.config.errors import UserError


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an object's JSON, without its key ``sha256``."""
    counted = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def is_intact(content: Mapping[str, Any]) -> bool:
    """Return whether an object agrees with its ``sha256``; one without this key does."""
    return "sha256" not in content or bool(content["sha256"] == digest(content))


def read_versioned(
    path: Path, version: int, keys: Set[str], what: str, hint: str, remedy: str, edited: bool = False
) -> dict[str, Any]:
    """Return the object in the JSON file ``path``, including unknown keys.

    A file of a newer version is accepted if it has the required keys. If the file has a ``sha256``, it is checked.

    Args:
        path: the file.
        version: the ``schema_version`` that this package writes.
        keys: the required keys.
        what: the kind of file, such as "a run's record".
        hint: end of the error for a missing file.
        remedy: end of the error for a broken file.
        edited: accept a file that does not agree with its ``sha256``.

    Raises:
        UserError: the file is missing, is of another kind, is damaged, or lacks a required key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {hint}") from error
    except ValueError as error:
        raise UserError(f"{path}: not {what} ({error}); {remedy}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(found, int):
        raise UserError(f"{path}: not {what} (no schema_version); {remedy}")
    missing = ", ".join(sorted(keys - content.keys()))
    if missing and found > version:
        newer = f"schema_version={found} is newer than {version}"
        raise UserError(f"{path}: {newer} and lacks {missing}; upgrade ttt-suite")
    if missing:
        raise UserError(f"{path}: lacks {missing}; {remedy}")
    if not edited and not is_intact(content):
        raise UserError(f"{path}: is damaged or was edited (its sha256 differs); {remedy}")
    return content
