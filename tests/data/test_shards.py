"""Tokens in several files, read as one sequence, with bounded memory."""

import gc
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.data import shards, sums
from ttt.data.corpus import Documents
from ttt.data.loader import TrainLoader
from ttt.data.shards import TokenShards, shard_bounds
from ttt.data.sums import block_sums, split_at_shards
from ttt.data.windows import windows_within

CONTEXTS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """Return the numbers 0 to 99 in shards of 10, 1, 60 and 29 tokens."""
    folder = tmp_path_factory.mktemp("shards")
    parts = np.split(np.arange(100, dtype=np.uint16), [10, 11, 71])
    for number, part in enumerate(parts):
        np.save(folder / f"{number}.npy", part)
    return TokenShards([folder / f"{number}.npy" for number in range(4)], [*map(len, parts)], np.dtype(np.uint16))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(-10, 120), stop=st.integers(-10, 120), mapped=st.sampled_from([0, 2**28]))
def test_slices_are_those_of_one_array(
    pieces: TokenShards, monkeypatch: pytest.MonkeyPatch, start: int, stop: int, mapped: int
) -> None:
    monkeypatch.setattr(shards, "MAPPED_BYTES", mapped)
    assert len(pieces) == 100
    assert pieces[start:stop].tolist() == list(range(100))[start:stop]
    assert pieces[start:stop].dtype == np.uint16


def test_a_block_is_checked_when_it_is_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BLOCK_BYTES", 16)
    lengths = [20, 3, 30]
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, part in zip(paths, np.split(np.arange(53, dtype=np.uint16), [20, 23]), strict=True):
        np.save(path, part)
    every = np.concatenate([block_sums(path, 2 * length) for path, length in zip(paths, lengths, strict=True)])
    by_shard = split_at_shards(every, [2 * length for length in lengths])
    assert [len(part) for part in by_shard] == [3, 1, 4]
    tokens = TokenShards(paths, lengths, np.dtype(np.uint16), by_shard)
    assert tokens[:].tolist() == list(range(53))
    content = bytearray(paths[2].read_bytes())
    content[-2] ^= 16
    paths[2].write_bytes(content)
    tokens = TokenShards(paths, lengths, np.dtype(np.uint16), by_shard)
    assert tokens[:47].tolist() == list(range(47))
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{paths[2]}: damaged \(block 3 of 4 has changed .*; delete its folder"):
            tokens[46:48]
    with pytest.raises(ValueError, match="8 sums of 7 blocks"):
        split_at_shards(every, [40, 6, 40])


def test_no_tokens() -> None:
    none = TokenShards([], [], np.dtype(np.uint32))
    assert (len(none), none[:].tolist()) == (0, [])


@given(st.lists(st.integers(1, 900), max_size=30), st.integers(1, 1000))
def test_shards_are_whole_documents_of_bounded_size(tokens: list[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shards, "SHARD_TOKENS", size)
        bounds = shard_bounds(np.array(tokens, np.int64))
    sizes = [sum(tokens[first:end]) for first, end in pairwise(bounds)]
    assert sum(sizes) == sum(tokens)
    assert all(0 < held < size + max(tokens) for held in sizes)


def sparse_shards(folder: Path, count: int, tokens: int) -> TokenShards:
    """Create sparse files of zeros, which take no disk space."""
    for number in range(count):
        path = folder / f"{number}.npy"
        with path.open("wb") as file:
            header = {"descr": "<u2", "fortran_order": False, "shape": (tokens,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * tokens)
    return TokenShards([folder / f"{number}.npy" for number in range(count)], [tokens] * count, np.dtype(np.uint16))


def resident() -> int:
    """Return the bytes of memory of this process, including mapped files."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ctx", [256, 32768])
def test_memory_stays_flat_in_100_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctx: int) -> None:
    monkeypatch.setattr(shards, "MAPPED_BYTES", 2**25)
    shard, length, count = 2**28, 2**16, 190
    tokens = sparse_shards(tmp_path, count, shard)
    documents = Documents("sparse", "train", tokens, np.arange(0, count * shard + 1, length, dtype=np.int64))
    assert 2 * len(tokens) > 100e9
    before = resident()
    batches = 40 if ctx == 256 else 200
    loader = TrainLoader(windows_within(documents, ctx), 2**19 // ctx, batches, seed=0)
    most = 0
    for number, batch in zip(range(batches), loader, strict=False):
        assert batch.shape == (2**19 // ctx, ctx + 1)
        if number % 5 == 0:
            most = max(most, resident() - before)
    print(f"ctx={ctx}: {batches * 2**19 / 1e6:.0f}M tokens read, memory grew by at most {most / 1e6:.0f} MB")
    # Mapped pages, the index of 770,000 documents, and a batch; far more than this has been read.
    assert most < 100e6


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize("ctx", CONTEXTS)
def test_reading_takes_little_longer_than_copying(tmp_path: Path, ctx: int) -> None:
    """Measured: 9 times as long at 256 tokens, 4 times at 4,096, equally long at 32,768."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(ctx + 1, 3 * ctx, size=2**22 // (2 * ctx))
    offsets = np.cumsum([0, *lengths])
    half = len(lengths) // 2
    whole = rng.integers(2**15, size=offsets[-1], dtype=np.uint16)
    parts = np.split(whole, [offsets[half]])
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    tokens = TokenShards([tmp_path / "0.npy", tmp_path / "1.npy"], [*map(len, parts)], np.dtype(np.uint16))
    windows = windows_within(Documents("made", "train", tokens, offsets), ctx)
    batch = max(1, 2**16 // ctx)
    starts = rng.integers(len(whole) - ctx - 1, size=(2**20 // (batch * ctx), batch))

    def read() -> None:
        assert sum(1 for _ in TrainLoader(windows, batch, len(starts), seed=0)) == len(starts)

    def copy() -> None:
        for row in starts:
            np.stack([whole[start : start + ctx + 1].astype(np.int64) for start in row])

    rounds = [(processor_seconds(read), processor_seconds(copy)) for _ in range(3)]
    reading, copying = map(min, zip(*rounds, strict=True))
    assert reading < 40 * copying
