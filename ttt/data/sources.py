"""Sources of text by name. A new source is one new file in this folder that calls ``register_source``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ttt.config.discover import modules_of
from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig


class UnreachableError(UserError):
    """A source that may be reachable later: what has been prepared of it is kept."""


@dataclass(frozen=True)
class Document:
    """A whole text and its name inside the source, such as ``torch/nn/modules/linear.py``."""

    name: str
    text: str


class Source(Protocol):
    """The interface of a source; classes derive from it and are built without arguments."""

    def versions(self, config: DataConfig) -> dict[str, str]:
        """Return names and versions that determine the documents, without reading the documents.

        Raises:
            UserError: ``config`` names something that does not exist.
        """
        ...

    def documents(self, config: DataConfig) -> Iterator[Document]:
        """Yield all documents, including duplicates, in an order that is the same every time.

        Raises:
            UserError: ``config`` names something that does not exist or cannot be read.
        """
        ...

    def text_bytes(self, config: DataConfig) -> int | None:  # noqa: ARG002 - a source that knows overrides it
        """Return the approximate number of bytes of text; None if that requires reading them."""
        return None


_SOURCES: dict[str, type[Source]] = {}
S = TypeVar("S", bound=type[Source])


def register_source(name: str) -> Callable[[S], S]:
    """Return a class decorator: ``data.source=name`` reads from an object of this class."""

    def register(cls: S) -> S:
        _SOURCES[name] = cls
        return cls

    return register


def source_types() -> dict[str, type[Source]]:
    """Return all registered sources by name; imports every module of this folder once."""
    modules_of(__package__)
    return dict(sorted(_SOURCES.items()))


def find_source(name: str) -> Source:
    """Return the source that ``data.source`` names.

    Raises:
        UserError: no source has this name.
    """
    types = source_types()
    if name not in types:
        raise bad_value("data.source", name, f"choose one of {', '.join(types)}")
    return types[name]()


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
