"""The choice of the newest undamaged checkpoint."""

import hashlib
from pathlib import Path

import pytest

from ttt.config.errors import UserError
from ttt.results.checkpoints import (
    checkpoint_path,
    checkpoints,
    newest_whole,
    remove_checkpoint,
    set_aside,
    write_digest,
)


def put(folder: Path, step: int) -> Path:
    path = checkpoint_path(folder, step)
    path.write_bytes(b"weights" * step)
    write_digest(path, hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unfinished(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def test_the_newest_counts(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    put(tmp_path, 2)
    path = put(tmp_path, 10)
    newest = newest_whole(tmp_path)
    assert newest is not None
    assert (newest.path, newest.step) == (path, 10)
    assert newest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_without_a_digest_is_as_good_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished(put(tmp_path, 10))
    assert newest_whole(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("; there is no earlier one")
    torn(put(tmp_path, 4))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        newest_whole(tmp_path)


def test_checkpoints_copied_without_their_digests_are_refused(tmp_path: Path) -> None:
    for step in (2, 10):
        unfinished(put(tmp_path, step))
    with pytest.raises(UserError, match=r"no checkpoint has its \.sha256 file; copy these files too"):
        newest_whole(tmp_path)


@pytest.mark.parametrize("damage", [torn, flipped, unfinished, emptied], ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_reported_and_the_previous_one_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object
) -> None:
    before, path = put(tmp_path, 2), put(tmp_path, 10)
    damage(path)  # type: ignore[operator]
    newest = newest_whole(tmp_path)
    assert newest is not None
    assert newest.path == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: ")
    torn(before)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        newest_whole(tmp_path)


def test_a_checkpoint_that_is_set_aside_is_kept_but_does_not_count(tmp_path: Path) -> None:
    before, path = put(tmp_path, 2), put(tmp_path, 10)
    set_aside(path, "diverged")
    assert checkpoints(tmp_path) == [before]
    assert (tmp_path / "step-00000010.ckpt.diverged").is_file()
    remove_checkpoint(before)
    assert [file.name for file in tmp_path.iterdir()] == ["step-00000010.ckpt.diverged"]


def test_sha256sum_reads_the_digest(tmp_path: Path) -> None:
    path = put(tmp_path, 3)
    digest, name = path.with_name(f"{path.name}.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
