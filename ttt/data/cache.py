"""The cache of prepared corpora, and the lock that lets only one process prepare a corpus."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from ttt.config.errors import UserError, bad_value
from ttt.config.identity import differences
from ttt.config.schema import DataConfig
from ttt.config.system import user_path
from ttt.data.manifest import Manifest, NewerManifestError, corpus_key, describe, read_manifest
from ttt.data.packed import packed_folder, packed_manifest, unpack
from ttt.data.prepare import prepare
from ttt.data.sources import Source, TokenSource, open_source
from ttt.data.stopping import stoppable
from ttt.data.vocabulary import tokenizer_version

UNPREPARED = (UserError, OSError, ValueError, LookupError, NewerManifestError)
"""Errors of reading the manifest of a corpus that is not prepared, or whose source cannot be read."""


def cache_folder(chosen: str | None) -> Path:
    """Return the folder of prepared corpora, as an absolute path: ``data.cache_dir``, or the user's cache for None."""
    return user_path(chosen).absolute() if chosen else platformdirs.user_cache_path("ttt-suite")


def prepared_folder(source: Source[DataConfig], show_progress: bool) -> Path:
    """Return the cache folder of the corpus that ``source`` gives, prepared first if it is missing.

    Raises:
        UserError: the source or the tokenizer cannot be read, or the cache cannot be written.
        RunError: the connection to a source was lost, or a worker process was killed.
        InterruptedPreparationError: a signal stopped the preparation.
    """
    config = source.config
    description, folder = _described(source)
    tokens = source if isinstance(source, TokenSource) else None
    if folder.exists():
        if tokens:
            tokens.link(folder)
        return folder
    limit = f", until it has {config.max_tokens:,} tokens (data.max_tokens)" if config.max_tokens else ""
    line = f"preparing data={config.name} in {folder}, only this time{limit}"
    write = partial(tokens.write if tokens else partial(prepare, source), description, folder, show_progress)
    _make(folder, config.name, write, line, show_progress)
    return folder


def unpacked_folder(config: DataConfig, show_progress: bool) -> Path:
    """Return the cache folder of the corpus in the file ``data.packed``, unpacked first if it is missing.

    Raises:
        UserError: the file is damaged or was prepared with other settings, another corpus has its place in the cache,
            or the cache cannot be written.
    """
    manifest = packed_manifest(config)
    ours, theirs = describe(config, {})["settings"], manifest["settings"]
    if changed := differences(theirs, ours, "data."):
        raise bad_value("data.packed", config.packed, f"was prepared with {'; '.join(changed)}")
    folder = packed_folder(config, manifest, cache_folder(config.cache_dir))
    line = f"unpacking data={config.name} into {folder}, only this time"
    if not folder.exists():
        _make(folder, config.name, partial(unpack, config, folder, show_progress), line, show_progress)
    if (found := _digest_in(folder)) != manifest["digest"]:
        here = f"{folder} has the digest {found[:12]}, the file {manifest['digest'][:12]}"
        raise bad_value("data.packed", config.packed, f"{here}; delete that folder, or choose another data.cache_dir")
    return folder


def _digest_in(folder: Path) -> str:
    """Return the digest in the manifest of a corpus, or ``unknown`` if it cannot be read."""
    try:
        return str(read_manifest(folder)["digest"])
    except UNPREPARED:
        return "unknown"


def _make(folder: Path, name: str, write: Callable[[], None], line: str, show_progress: bool) -> None:
    """Create the folder of a corpus with ``write``, unless another process does; ``line`` says so.

    Raises:
        UserError: it cannot be written.
    """
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with stoppable(name), _lock(folder, show_progress):
            # Another process may have made it in the meantime.
            if not folder.exists():
                _report(line, show_progress)
                write()
    except OSError as error:
        allowed = f"cannot be written ({error.strerror or error}); make room or choose another folder"
        raise bad_value("data.cache_dir", root, allowed) from error


def training_tokens(config: DataConfig) -> tuple[int, bool] | None:
    """Return the number of training tokens, and whether it was counted in the prepared corpus.

    Without a prepared corpus it follows from ``data.tokens_estimate``; None: it is not known. Nothing is read but the
    manifest.
    """
    try:
        return int(_prepared_manifest(config)["splits"]["train"]["tokens"]), True
    except UNPREPARED:
        if config.tokens_estimate is None:
            return None
    estimated = min(config.tokens_estimate, config.max_tokens or config.tokens_estimate)
    return round(estimated * (1 - config.validation_fraction - config.test_fraction)), False


def prepared_digest(config: DataConfig) -> str | None:
    """Return the digest of the prepared corpus; None if it is not prepared. Nothing is read but the manifest."""
    try:
        return str(_prepared_manifest(config)["digest"])
    except UNPREPARED:
        return None


def _prepared_manifest(config: DataConfig) -> Manifest:
    if config.packed is not None:
        return packed_manifest(config)
    _, folder = _described(open_source(config))
    return read_manifest(folder)


def _described(source: Source[Any]) -> tuple[Manifest, Path]:
    """Return the first entries of the manifest of a corpus, and its folder in the cache."""
    config, versions = source.config, source.versions()
    if config.tokenizer is not None:
        versions = versions | tokenizer_version(user_path(config.tokenizer))
    description = describe(config, versions)
    return description, cache_folder(config.cache_dir) / f"{config.name}-{corpus_key(description)}"


@contextmanager
def _lock(folder: Path, show_progress: bool) -> Iterator[None]:
    lock = filelock.FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        _report(f"waiting for another process that prepares {folder}", show_progress)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _report(line: str, show: bool) -> None:
    if show:
        print(line, file=sys.stderr, flush=True)
