"""``data=tokens``: the authors' token files as a corpus, without a copy, without unpickling."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig, TrainConfig
from ttt.data.corpus import load_corpus, verify
from ttt.data.local import check_paths
from ttt.data.prepared import find_prepared
from ttt.data.tokenizer import save_tokenizer, train_tokenizer
from ttt.data.vocabulary import open_vocabulary
from ttt.data.windows import windows_within

LENGTHS = {"train": [300, 5, 900], "validation": [200, 100], "test": [50]}
"""Tokens of the documents of each split, with the end-of-document token."""


class Written:
    """Token files in a folder, and the configuration that reads them."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "tokenised"
        self.folder.mkdir()
        tokenizer = tmp_path / "tokenizer.json"
        save_tokenizer(train_tokenizer(["def forward(self):\n    return 1\n"] * 20, 280), tokenizer)
        self.vocabulary = open_vocabulary(tmp_path)
        rng = np.random.default_rng(0)
        self.tokens = {split: self._stream(rng, lengths) for split, lengths in LENGTHS.items()}
        self.config = DataConfig(
            name="tokens", source="tokens", path=str(self.folder), tokenizer=str(tokenizer), join=True,
            cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip

    def _stream(self, rng: np.random.Generator, lengths: list[int]) -> np.ndarray:
        others = [token for token in range(self.vocabulary.size) if token != self.vocabulary.end]
        documents = [[*rng.choice(others, length - 1), self.vocabulary.end] for length in lengths]
        return np.concatenate(documents).astype(np.uint16)

    def write(self, ending: str, dtype: str = "<u2", validation: str = "validation") -> None:
        for split, tokens in self.tokens.items():
            name = validation if split == "validation" else split
            path = self.folder / f"{name}{ending}"
            if ending == ".npy":
                np.save(path, tokens.astype(dtype))
            else:
                path.write_bytes(tokens.astype(dtype).tobytes())


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


@pytest.mark.parametrize(
    ("ending", "dtype", "validation"),
    [(".npy", "<u2", "validation"), (".npy", "<i4", "val"), (".bin", "<u2", "val"), (".bin", "<i4", "validation")],
)
def test_the_corpus_is_the_files(written: Written, ending: str, dtype: str, validation: str) -> None:
    written.write(ending, dtype, validation)
    (written.folder / "tokenizer.pkl").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    corpus = load_corpus(written.config, show_progress=False)
    assert corpus.vocab_size == written.vocabulary.size
    for split, lengths in LENGTHS.items():
        documents = corpus.splits[split]
        assert documents.lengths.tolist() == lengths
        assert documents.tokens[:].tolist() == written.tokens[split].tolist()
        assert len(windows_within(documents, 16)) == (sum(lengths) - 1) // 16
    text = sum(len(written.vocabulary.bytes_of(token)) for token in written.tokens["test"].tolist())
    assert corpus.manifest["splits"]["test"]["bytes"] == text
    verify(corpus)
    # The files are linked: the corpus itself has only offsets, sums, the tokenizer and the manifest.
    shards = [corpus.folder / shard["file"] for shard in corpus.manifest["splits"]["train"]["shards"]]
    assert [shard.resolve() for shard in shards] == [written.folder / f"train{ending}"]


def test_both_endings_are_one_corpus_which_is_found_again(written: Written) -> None:
    written.write(".npy")
    first = load_corpus(written.config, show_progress=False)
    found = find_prepared(written.config, first.digest)
    assert found is not None
    assert found.folder == first.folder
    for path in written.folder.iterdir():
        path.unlink()
    written.write(".bin")
    assert load_corpus(written.config, show_progress=False).digest == first.digest


def test_files_may_move(written: Written) -> None:
    written.write(".npy")
    before = load_corpus(written.config, show_progress=False)
    moved = written.folder.rename(written.folder.with_name("moved"))
    with pytest.raises(UserError, match=r"train\.npy: is gone, .* name its new place with data\.path$"):
        find_prepared(written.config, before.digest)
    written.config.path = str(moved / "train.npy")
    after = load_corpus(written.config, show_progress=False)
    assert (after.folder, after.digest) == (before.folder, before.digest)


def test_a_changed_token_is_noticed(written: Written) -> None:
    written.write(".bin")
    corpus = load_corpus(written.config, show_progress=False)
    with (written.folder / "train.bin").open("r+b") as file:
        file.write(b"\x07\x00")
    with pytest.raises(UserError, match="has changed since it was written"):
        corpus.splits["train"].tokens[:10]


def test_a_test_file_is_optional(written: Written) -> None:
    written.write(".bin")
    (written.folder / "test.bin").unlink()
    assert len(load_corpus(written.config, show_progress=False).splits["test"]) == 0


def refused(written: Written, **changes: object) -> str:
    for key, value in changes.items():
        setattr(written.config, key, value)
    with pytest.raises(UserError) as error:
        load_corpus(written.config, show_progress=False)
    assert "\n" not in str(error.value)
    left = [path.name for path in Path(str(written.config.cache_dir)).glob("tokens-*") if path.suffix != ".lock"]
    assert left == []
    return str(error.value)


def test_mistakes_are_one_line(written: Written) -> None:
    assert refused(written).endswith("has no train.npy or train.bin for train; docs/data.md describes the format")
    written.write(".npy")
    assert refused(written, path=str(written.folder.parent)).endswith(f"there is one in {written.folder}")
    assert refused(written, path=None).startswith("data.path=null: give the folder of train.npy")
    assert refused(written, path="nowhere") == "data.path=nowhere: does not exist"
    assert "the authors' is Llama-2's" in refused(written, path=str(written.folder), tokenizer=None)
    assert "is for texts" in refused(written, max_tokens=5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((2, 2), np.uint16), "a 2-dimensional array of uint16"),
        (np.zeros(4, np.float32), "array of float32"),
        (np.array([{}], object), "Array can.t be memory-mapped"),
        (np.array([9999], np.uint16), r"has the token 9999; give the tokenizer that made it; .* has 280 tokens"),
    ],
)
def test_a_file_that_is_no_file_of_tokens(written: Written, content: np.ndarray, words: str) -> None:
    written.write(".npy")
    np.save(written.folder / "train.npy", content)
    message = refused(written)
    assert message.startswith(f"{written.folder}/train.npy: ")
    assert re.search(words, message)


def test_the_option_needs_a_path_and_a_tokenizer(configure: Callable[..., TrainConfig]) -> None:
    config = configure("data=tokens", "data.path=nowhere")
    assert (config.data.join, config.data.eval_tokens) == (True, 512)
    with pytest.raises(UserError, match=r"^data\.path=nowhere: does not exist$"):
        check_paths(config.data)
