"""From a source to shards: every document once, whatever the number of workers, the sizes and the kills."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data import documents, partial_shards, prepare, shards, sources
from ttt.data.corpus import Corpus, load_corpus
from ttt.data.documents import sha256_of, split_of
from ttt.data.inspect import describe_corpus
from ttt.data.sources import Document, Source
from ttt.data.vocabulary import decode, open_vocabulary

ROOT = Path(__file__).parents[2]

PREPARE = """
import json, sys
from ttt.config.schema import DataConfig
from ttt.data import partial_shards, shards
from ttt.data.corpus import load_corpus
partial_shards.PARTIAL_SHARD_CHARS, shards.SHARD_TOKENS = 20_000, 5_000
if __name__ == "__main__":
    load_corpus(DataConfig(**json.loads(sys.argv[1])), show_progress=False)
"""


class Given(Source):
    """A source of given documents."""

    texts: tuple[str, ...] = ()

    def versions(self) -> dict[str, str]:
        return {"texts": sha256_of(json.dumps(self.texts)).hex()}

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(str(number), text)


@pytest.fixture
def given_source(monkeypatch: pytest.MonkeyPatch) -> type[Given]:
    monkeypatch.setitem(sources._SOURCES, "given", Given)
    return Given


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit partial shards and shards to a few documents."""
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", 2000)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 300)


def texts_of(corpus: Corpus, split: str) -> list[str]:
    documents, vocabulary = corpus.splits[split], open_vocabulary(corpus.folder)
    whole = documents.tokens[:]
    assert len(whole) == documents.offsets[-1]
    pieces = np.split(whole, documents.offsets[1:-1])
    assert all(piece[-1] == vocabulary.end for piece in pieces if len(piece))
    return [decode(vocabulary, piece[:-1]) for piece in pieces if len(piece)]


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    texts=st.lists(
        st.text(min_size=1, max_size=60) | st.sampled_from(["def f():\n  pass", "<|endoftext|>"]), min_size=1
    ),
    cuts=st.tuples(st.integers(1, 200), st.integers(1, 100)),
)
def test_packing_gives_every_token_back_once_in_order(
    given_source: type[Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], cuts: tuple[int, int]
) -> None:
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", cuts[0])
    monkeypatch.setattr(shards, "SHARD_TOKENS", cuts[1])
    given_source.texts = (*texts, "one for training")
    # Hypothesis repeats examples, and an existing corpus would not be prepared again.
    with tempfile.TemporaryDirectory(dir=tmp_path) as cache:
        config = DataConfig("made", "given", min_chars=1, max_chars=100, vocab_size=270, cache_dir=cache)
        corpus = load_corpus(config, show_progress=False)
        assert texts_of(corpus, "train") == sorted({*texts, "one for training"}, key=sha256_of)
        sizes = [shard["tokens"] for shard in corpus.manifest["splits"]["train"]["shards"]]
        assert max(sizes) < cuts[1] + max(corpus.splits["train"].lengths)


@pytest.mark.usefixtures("cut_small")
def test_a_document_is_in_one_split_which_its_text_decides(config: DataConfig) -> None:
    corpus = load_corpus(config, show_progress=False)
    found: dict[str, list[str]] = {split: texts_of(corpus, split) for split in corpus.splits}
    every = [text for texts in found.values() for text in texts]
    assert len(every) == len(set(every)) == 60
    for split, texts in found.items():
        assert texts
        assert {split_of(sha256_of(text), 0.2, 0.1) for text in texts} == {split}
    names = [json.loads(line)["name"] for line in (corpus.folder / "documents.jsonl").read_text().splitlines()]
    assert "tinycode/copy.py" in names
    assert "tinycode/inner/module_00.py" not in names


@pytest.mark.parametrize("cut", [1, 100, 10**6])
def test_max_tokens_takes_the_first_documents(
    given_source: type[Given], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", cut)
    given_source.texts = tuple(f"text {number:02} of many" for number in range(30))
    config = DataConfig("made", "given", vocab_size=258, cache_dir=str(tmp_path), max_tokens=100)
    whole = load_corpus(replace(config, max_tokens=None), show_progress=False)
    (length,) = set(whole.splits["train"].lengths.tolist())
    part = load_corpus(config, show_progress=False)
    first = given_source.texts[: -(-100 // length)]
    assert sorted(texts_of(part, "train")) == list(first)
    assert 100 <= part.manifest["splits"]["train"]["tokens"] < 100 + length
    assert part.manifest["settings"]["max_tokens"] == 100
    assert "data.max_tokens=100\n" in describe_corpus(part)
    assert part.folder != whole.folder
    assert "max_tokens" not in whole.manifest["settings"]
    every = load_corpus(replace(config, max_tokens=10**9), show_progress=False)
    assert every.digest == whole.digest


def test_max_tokens_reads_no_further_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_shards, "PARTIAL_SHARD_CHARS", 1)
    monkeypatch.setattr(documents, "MOST_CHARS_OF_A_TOKEN", 1)
    texts = [f"text {number:02} of many" for number in range(10)]
    read: list[str] = []

    class Endless(Given):
        def documents(self) -> Iterator[Document]:
            for number in count():
                read.append(texts[number])
                yield Document(str(number), texts[number])

    monkeypatch.setitem(sources._SOURCES, "given", Endless)
    config = DataConfig("made", "given", vocab_size=258, cache_dir=str(tmp_path), max_tokens=50)
    with monkeypatch.context() as patched:
        patched.setattr(prepare.Preparation, "_shards", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            load_corpus(config, show_progress=False)
    (counted,) = tmp_path.glob("*/partial_shards/all.json")
    counted.unlink()
    written = [path for path in tmp_path.glob("*/partial_shards/*") if path.is_dir()]
    corpus = load_corpus(config, show_progress=False)
    assert len(corpus.splits["train"]) == len(written) < 9
    assert max(read) == texts[len(written) - 1]


def test_how_the_tokens_are_cut_does_not_change_the_digest(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_corpus(config, show_progress=False)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 500)
    config.cache_dir = str(tmp_path / "other")
    cut = load_corpus(config, show_progress=False)
    assert len(cut.manifest["splits"]["train"]["shards"]) > 5
    assert cut.digest == whole.digest


@pytest.mark.slow
@pytest.mark.usefixtures("cut_small")
def test_any_number_of_workers_writes_the_same_bytes(config: DataConfig, tmp_path: Path) -> None:
    written = []
    for workers in (1, 2, 3):
        config.workers, config.cache_dir = workers, str(tmp_path / str(workers))
        folder = load_corpus(config, show_progress=False).folder
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1] == written[2]
    assert len(written[0]) > 10


def test_a_user_mistake_leaves_nothing(config: DataConfig, given_source: type[Given]) -> None:
    given_source.texts = ("short",)
    config.source = "given"
    with pytest.raises(UserError, match=r"^data=tiny: no training document of 100 to 100000 characters \(data\.min"):
        load_corpus(config, show_progress=False)
    assert not [path for path in Path(str(config.cache_dir)).iterdir() if path.is_dir()]


@pytest.mark.slow
@pytest.mark.usefixtures("cut_small")
def test_finished_partial_shards_and_shards_are_not_repeated(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path] = []
    limit = 3

    def stopping(function: object, path_of: object) -> object:
        def call(task: object) -> None:
            if len(done) % limit == limit - 1:
                done.append(Path("stopped"))
                raise KeyboardInterrupt
            function(task)
            done.append(path_of(task))

        return call

    monkeypatch.setattr(
        prepare, "write_partial_shard", stopping(partial_shards.write_partial_shard, lambda task: task.folder)
    )
    monkeypatch.setattr(prepare, "write_shard", stopping(shards.write_shard, lambda task: task.path))
    for _ in range(100):
        try:
            corpus = load_corpus(config, show_progress=False)
            break
        except KeyboardInterrupt:
            continue
    written = [path for path in done if path != Path("stopped")]
    assert len(done) > len(written) + 5
    assert len(written) == len(set(written))
    config.cache_dir = f"{config.cache_dir}-whole"
    monkeypatch.undo()
    monkeypatch.syspath_prepend(Path(str(config.cache_dir)).parent / "site")
    assert load_corpus(config, show_progress=False).digest == corpus.digest


class Preparation:
    """Prepares a corpus of one package in separate processes; ``seconds`` is the time when nothing disturbs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "prepare.py"
        self.script.write_text(PREPARE)
        before = time.perf_counter()
        assert self.start("whole").wait() == 0
        self.seconds = time.perf_counter() - before

    def start(self, cache: str) -> subprocess.Popen:
        config = DataConfig("killed", "pycode", ["fsspec"], min_chars=100, vocab_size=400, test_fraction=0.1, workers=2)
        config.cache_dir = str(self.folder / cache)
        command = [sys.executable, str(self.script), json.dumps(asdict(config))]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)

    def files(self, cache: str) -> dict[str, bytes]:
        (prepared,) = (path for path in (self.folder / cache).iterdir() if path.is_dir())
        return {path.name: path.read_bytes() for path in prepared.iterdir()}


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_and_ends_the_same(tmp_path: Path) -> None:
    """Each file operation in turn: ``test_killed_preparation.py``; here with worker processes."""
    preparation, rng, cache = Preparation(tmp_path), random.Random(0), "killed"
    kills = 0
    while (process := preparation.start(cache)).poll() is None:
        try:
            process.wait(rng.uniform(0.3, 1.0) * preparation.seconds)
            break
        except subprocess.TimeoutExpired:
            # Kill only the main process: the workers must notice it.
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert preparation.files(cache) == preparation.files("whole")
    print(f"killed {kills} times")
