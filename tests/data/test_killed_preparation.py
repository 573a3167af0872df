"""What a preparation leaves when it is stopped at any file operation is finished to the same bytes by the next one."""

import errno
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data import partial_shards, shards
from ttt.data.corpus import load_corpus
from ttt.data.files import write_array

OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events of operations that change files."""


class Killed(BaseException):
    """Stands for a kill: no ``except Exception`` catches it."""


class Stopper:
    """Raises an error at one file operation below a folder; a file that is opened for writing is empty by then."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.left = 0
        self.error: Callable[[], BaseException] = Killed
        sys.addaudithook(self._audit)

    def stop(self, folder: Path, number: int, error: Callable[[], BaseException]) -> None:
        """Raise ``error()`` at operation ``number`` in ``folder``."""
        self.folder, self.left, self.error = folder, number, error

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is None or event not in OPERATIONS:
            return
        path, flags = str(arguments[0]), arguments[2] if event == "open" else None
        if event == "open" and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            return
        # Names below an open folder are relative in shutil.rmtree.
        if path.endswith(".lock") or not (path.startswith(str(self.folder)) or not path.startswith("/")):
            return
        self.left -= 1
        if self.left < 0:
            self.folder = None
            if event == "open":
                Path(path).write_bytes(b"")
            raise self.error()


@pytest.fixture(scope="module")
def module_stopper() -> Stopper:
    """Return the one stopper: an audit hook cannot be removed."""
    return Stopper()


@pytest.fixture
def stopper(module_stopper: Stopper) -> Iterator[Stopper]:
    yield module_stopper
    module_stopper.folder = None


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Return the configuration of three documents in two partial shards and two shards of the training split."""
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", 100)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 100)
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / f"texts/{number}.txt").write_text(f"document {number} " * 5)
    cache = str(tmp_path / "cache")
    return DataConfig("local", "local", path=str(tmp_path / "texts"), vocab_size=258, cache_dir=cache)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("error", [Killed, full_disk])
def test_stopped_at_each_file_operation(
    local: DataConfig, stopper: Stopper, error: Callable[[], BaseException]
) -> None:
    corpus = load_corpus(local, show_progress=False)
    whole, cache = files_of(corpus.folder), corpus.folder.parent
    assert {"train-00000.npy", "train-00001.npy", "manifest.json"} < whole.keys()
    lines: set[str] = set()
    for number in range(500):
        shutil.rmtree(cache)
        cache.mkdir()
        stopper.stop(cache, number, error)
        try:
            load_corpus(local, show_progress=False)
        except Killed:
            pass
        except UserError as refused:
            lines.add(str(refused))
        if stopper.folder is not None:
            break
        assert files_of(load_corpus(local, show_progress=False).folder) == whole, number
        assert {path.name for path in cache.iterdir()} == {corpus.folder.name, f"{corpus.folder.name}.lock"}
    assert 30 < number < 500
    line = f"data.cache_dir={cache}: cannot be written (No space left on device); make room or choose another folder"
    assert lines == ({line} if error is full_disk else set())


def test_killed_while_what_cannot_be_used_is_deleted(local: DataConfig, stopper: Stopper) -> None:
    corpus = load_corpus(local, show_progress=False)
    cache = corpus.folder.parent
    # With a tokenizer, texts are read before it is found that none is long enough.
    local.tokenizer = shutil.copy(corpus.folder / "tokenizer.json", cache.parent)
    local.min_chars = 1000
    for number in range(500):
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        stopper.stop(cache, number, Killed)
        with suppress(Killed, UserError):
            load_corpus(local, show_progress=False)
        if stopper.folder is not None:
            break
        with pytest.raises(UserError, match=r"^data=local: no training document of 1000 to"):
            load_corpus(local, show_progress=False)
        assert not [path for path in cache.iterdir() if path.is_dir()], number
    assert 3 < number < 500


def test_an_array_that_does_not_fit_on_the_disk_has_its_reason(tmp_path: Path) -> None:
    """Numpy's own writing says "1000 requested and 12 written"; a limit on files stands for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            write_array(tmp_path / "tokens.npy", np.arange(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.errno == errno.EFBIG
    write_array(tmp_path / "tokens.npy", np.arange(1000))
    np.save(tmp_path / "theirs.npy", np.arange(1000))
    assert (tmp_path / "tokens.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_shards_are_not_written_through_a_memory_map(local: DataConfig) -> None:
    """On a full disk, writing to a new file's map kills the process with SIGBUS; a write raises an error."""
    shared: list[object] = []
    sys.addaudithook(lambda event, arguments: shared.append(arguments) if event == "mmap.__new__" else None)
    load_corpus(local, show_progress=False)
    writable = {2, 3}
    assert not [arguments for arguments in shared if arguments[2] in writable]
