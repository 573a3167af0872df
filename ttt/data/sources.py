"""Where text comes from, by name. A new source is one new file in this folder that calls ``register_source``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ttt.config.discover import modules_of
from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig


class UnreachableError(UserError):
    """A source that may be there at another time: what has been prepared of it is kept."""


@dataclass(frozen=True)
class Document:
    """A whole text and what it is called inside its source, such as ``torch/nn/modules/linear.py``."""

    name: str
    text: str


class Source(Protocol):
    """What a source must have; classes derive from it and are built without arguments."""

    def versions(self, config: DataConfig) -> dict[str, str]:
        """Names and versions that determine the documents. Reads none of them, so that a cache is found at once.

        Raises:
            UserError: ``config`` names something that is not there.
        """
        ...

    def documents(self, config: DataConfig) -> Iterator[Document]:
        """All documents, duplicates included, in an order that is the same every time.

        Raises:
            UserError: ``config`` names something that is not there, or that cannot be read.
        """
        ...

    def text_bytes(self, config: DataConfig) -> int | None:  # noqa: ARG002 - for those that know
        """How many bytes of text there are, about; None where that takes reading them."""
        return None


_SOURCES: dict[str, type[Source]] = {}
S = TypeVar("S", bound=type[Source])


def register_source(name: str) -> Callable[[S], S]:
    """Class decorator: ``data.source=name`` reads from an object of this class."""

    def register(cls: S) -> S:
        _SOURCES[name] = cls
        return cls

    return register


def source_types() -> dict[str, type[Source]]:
    """All registered sources by name; imports every module of this folder once."""
    modules_of(__package__)
    return dict(sorted(_SOURCES.items()))


def find_source(name: str) -> Source:
    """The source that ``data.source`` names.

    Raises:
        UserError: no source has this name.
    """
    types = source_types()
    if name not in types:
        raise bad_value("data.source", name, f"choose one of {', '.join(types)}")
    return types[name]()


def first_line(error: Exception) -> str:
    """What an exception says, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
