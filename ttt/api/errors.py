"""Errors of the Python interface."""

from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import OmegaConfBaseException

from ttt.cli.errors import describe
from ttt.config.errors import UserError


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise a mistake in a value, a key or a file as a ``ValueError`` of one line. Also serves as a decorator."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None
    except OmegaConfBaseException as error:
        raise ValueError(describe(error)) from None
