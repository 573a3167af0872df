"""Errors as a user sees them: one line and an exit code."""

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from ttt.cli.terminal import show_error
from ttt.config.errors import InterruptedPreparationError, RunError, UserError


@contextmanager
def exit_with_one_line() -> Iterator[None]:
    """Print errors as one line; exit with code 2 after a user's mistake and with code 1 after a failed run.

    A signal that stops the preparation of data ends with 128 + its number, as shells expect.

    Programming errors pass unchanged, with their traceback.
    """
    try:
        try:
            yield
        finally:
            # A reader that has closed the pipe is noticed here, not at the end of the process, with a traceback.
            sys.stdout.flush()
    except UserError as error:
        stop(str(error), 2)
    except InterruptedPreparationError as error:
        stop(str(error), 128 + error.number)
    except RunError as error:
        stop(str(error), 1)
    except (HydraException, OmegaConfBaseException) as error:
        stop(describe(error), 2)
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except BrokenPipeError:
        # The reader closed the pipe, as ``head`` does. Python's last flush must not raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def stop(line: str, code: int) -> None:
    """Print ``error: line`` and exit with ``code``."""
    show_error(line)
    raise SystemExit(code) from None


def describe(error: Exception) -> str:
    """Return an error of Hydra or OmegaConf as one line."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_option(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value"
    if isinstance(cause, MissingMandatoryValue) and cause.full_key:
        return _missing(cause)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _no_such_key(cause)
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {_first_line(cause)}" if cause.full_key else _first_line(cause)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}={_assigned(error, cause)}: {_first_line(cause)}"
    return _first_line(error)


def by_number(name: str) -> tuple[bool, str, float]:
    """Return a key that sorts w64 before w128 before 125m before 1.3b, and 256 before 1k before 16k.

    Names without a number at their end are sorted by letters, before numbers alone.
    """
    found = re.fullmatch(r"(?P<word>.*?)(?P<number>\d+(\.\d+)?)(?P<scale>[kmb]?)", name)
    if found is None:
        return False, name, 0
    return (
        not found["word"],
        found["word"],
        float(found["number"]) * {"k": 1024, "m": 1e6, "b": 1e9}.get(found["scale"], 1),
    )


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [], key=by_number)
    hint = f"choose one of {', '.join(options)}" if options else "there is no such file"
    return f"{group}={option}: {hint}"


def _no_such_key(cause: OmegaConfBaseException) -> str:
    """Return a line with the key of this name in a group, the closest known key, or all known keys."""
    schema = cause.object_type
    known = [field.name for field in fields(schema)] if is_dataclass(schema) else sorted(cause.parent_node or [])
    close = _in_groups(cause)[:2] or difflib.get_close_matches(str(cause.key), known, n=1)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(map(str, known))}"
    return f"{cause.full_key}: no such key; {hint}"


def _in_groups(cause: OmegaConfBaseException) -> list[str]:
    """Return the keys of this name in the groups of the configuration: ``model.eta_base`` for ``eta_base``."""
    parent, key = cause.parent_node, str(cause.key)
    if not isinstance(parent, DictConfig) or str(cause.full_key) != key:
        return []
    groups = OmegaConf.to_container(parent)
    assert isinstance(groups, dict)
    return [f"{group!s}.{key}" for group, keys in groups.items() if isinstance(keys, dict) and key in keys]


def _missing(cause: OmegaConfBaseException) -> str:
    """Return a line with the meaning of the key."""
    schema = cause.object_type
    keys = fields(schema) if is_dataclass(schema) else ()
    meanings = [key.metadata["help"].partition(";")[0] for key in keys if key.name == str(cause.key)]
    return f"{cause.full_key}= is missing: {'; '.join(meanings) or 'see --help'}"


def _assigned(error: Exception, cause: OmegaConfBaseException) -> str:
    """Return the value in ``Error merging override key=value``, or the one stored in the error."""
    _, found, value = _first_line(error).partition(f"{cause.full_key}=")
    return value if found else str(cause.value)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
