"""Registry of text sources. A new source needs one new file in this folder that calls ``register_source``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ttt.config.discover import import_registering, modules_of
from ttt.config.errors import UserError, bad_value
from ttt.config.schema import DataConfig, Resolved


class UnreachableError(UserError):
    """A source that may be reachable later; the data prepared so far is kept."""


@dataclass(frozen=True)
class Document:
    """A text and its name inside the source, such as ``torch/nn/modules/linear.py``.

    Attributes:
        split: the split of a stretch of a longer document; None: chosen by the hash of the text.
    """

    name: str
    text: str
    split: str | None = None


C = TypeVar("C", bound=DataConfig)


class Source(ABC, Generic[C]):
    """The texts that a configuration names.

    Attributes:
        schema: the schema of the ``data`` group, set by ``register_source``.
        config: the ``data`` group.
    """

    schema: ClassVar[type[DataConfig]] = DataConfig

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return names and versions that determine the documents, without reading the documents.

        Raises:
            UserError: the configuration names something that does not exist.
        """

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield all documents, including duplicates, in an order that is the same every time.

        Raises:
            UserError: the configuration names something that does not exist or cannot be read.
        """

    def text_bytes(self) -> int | None:
        """Return the approximate number of bytes of text; None if that requires reading them."""
        return None


class TokenSource(Source[C]):
    """A source that has tokens instead of texts, and writes its corpus itself."""

    def documents(self) -> Iterator[Document]:
        """Return no documents."""
        return iter(())

    @abstractmethod
    def write(self, description: Resolved, folder: Path, show_progress: bool) -> None:
        """Write the corpus; ``folder`` is created only when it is complete.

        Args:
            description: the first entries of the manifest.
            folder: of the corpus, in the cache.
            show_progress: show progress bars.

        Raises:
            UserError: the tokens or the tokenizer cannot be used.
            OSError: the folder cannot be written.
        """

    @abstractmethod
    def link(self, folder: Path) -> None:
        """Let a corpus that was written before read the files that ``config`` names now."""


_SOURCES: dict[str, type[Source[Any]]] = {}
S = TypeVar("S", bound=type[Source[Any]])


def register_source(name: str, schema: type[DataConfig] = DataConfig) -> Callable[[S], S]:
    """Return a class decorator: ``data=name`` reads from this class; ``schema`` may add keys."""

    def register(cls: S) -> S:
        cls.schema = schema
        _SOURCES[name] = cls
        return cls

    return register


def source_types() -> dict[str, type[Source[Any]]]:
    """Return name -> registered source, after importing every module of this folder."""
    modules_of(__package__)
    return dict(sorted(_SOURCES.items()))


def open_source(config: DataConfig) -> Source[Any]:
    """Return the source that ``config`` describes.

    Raises:
        UserError: there is no such source.
    """
    return _find_source(config.source)(config)


def _find_source(name: str) -> type[Source[Any]]:
    """Return the class that ``data.source`` names.

    Raises:
        UserError: no source has this name.
    """
    if name not in _SOURCES:
        import_registering(__package__, "register_source", name)
    if name not in _SOURCES:
        raise bad_value("data.source", name, f"choose one of {', '.join(source_types())}")
    return _SOURCES[name]


def data_schema(plain: Resolved) -> type[DataConfig]:
    """Return the schema of the ``data`` group for a run's configuration in plain containers.

    Raises:
        UserError: the configuration names an unknown source.
    """
    return _find_source(plain["data"]["source"]).schema
