"""Long documents cut into stretches where there are too few documents for a split."""

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt.config.errors import UserError
from ttt.config.schema import DataConfig
from ttt.data import prepare
from ttt.data.corpus import Corpus, load_corpus, verify
from ttt.data.documents import SPLITS, Selection
from ttt.data.sources import Document
from ttt.data.stretches import cut, is_long
from ttt.data.vocabulary import decode, open_vocabulary

WORDS = ["to", "learn", "at", "test", "time", "été", "hidden", "state", "model", "of", "a", "layer"]


def text(seed: int, number: int = 2000) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=8)) for _ in range(number // 8))


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "texts").mkdir()
    return DataConfig(
        "mine",
        "local",
        path=str(tmp_path / "texts"),
        vocab_size=300,
        validation_fraction=0.05,
        test_fraction=0.05,
        cache_dir=str(tmp_path / "cache"),
    )


def write(config: DataConfig, texts: list[str]) -> None:
    for number, content in enumerate(texts):
        (Path(str(config.path)) / f"{number:03}.txt").write_text(content, encoding="utf-8")


def texts_of(corpus: Corpus) -> dict[str, list[str]]:
    vocabulary = open_vocabulary(corpus.folder)
    return {
        split: [
            decode(vocabulary, documents.tokens[start : end - 1])
            for start, end in zip(documents.offsets, documents.offsets[1:], strict=False)
        ]
        for split, documents in corpus.splits.items()
    }


def test_one_file_has_all_splits(config: DataConfig, capfd: pytest.CaptureFixture[str]) -> None:
    write(config, [text(0)])
    corpus = load_corpus(config, show_progress=False)
    verify(corpus)
    found = texts_of(corpus)
    assert [len(found[split]) for split in SPLITS] == [1, 1, 1]
    # Together the stretches are the file: nothing is lost and nothing is in two splits.
    assert "".join(found[split][0] for split in SPLITS) == text(0)
    assert len(found["validation"][0]) == pytest.approx(0.05 * len(text(0)), rel=0.2)
    assert all(found[split][0].endswith("\n") for split in ("train", "validation"))
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    cut_splits = corpus.manifest["stretches"]
    assert cut_splits["documents"] == 1
    assert cut_splits["shares"] == shares
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("data=mine: too few documents for ")
    assert lines[0].endswith("; 1 long document is cut: train 90%, validation 5%, test 5%")
    names = [json.loads(line)["name"] for line in (corpus.folder / "documents.jsonl").read_text().splitlines()]
    assert names[0].startswith("000.txt[0:")
    assert names[2].endswith(f":{len(text(0))}]")
    assert not (corpus.folder / "stretches.json").exists()


def test_short_documents_stay_whole(config: DataConfig) -> None:
    write(config, [text(0), text(1), "short"])
    found = texts_of(load_corpus(config, show_progress=False))
    assert "short" in {text for texts in found.values() for text in texts}
    assert [len(found[split]) >= 2 for split in SPLITS] == [True, True, True]


def test_no_stretches_where_every_split_has_a_document(config: DataConfig) -> None:
    config.validation_fraction = config.test_fraction = 0.3
    write(config, [text(number) for number in range(20)])
    corpus = load_corpus(config, show_progress=False)
    assert "stretches" not in corpus.manifest
    assert sum(map(len, corpus.splits.values())) == 20


def test_the_tokenizer_is_trained_on_training_stretches(config: DataConfig) -> None:
    config.vocab_size = 400
    whole = text(0)
    write(config, [whole])
    first = load_corpus(config, show_progress=False).manifest["tokenizer_sha256"]
    write(config, [whole[:-400] + "zq" * 200])
    assert load_corpus(config, show_progress=False).manifest["tokenizer_sha256"] == first


def test_too_short_for_stretches(config: DataConfig) -> None:
    write(config, ["train 0"])
    with pytest.raises(UserError, match=r"^data=mine: no validation document among 1, and none has the 4,001 charac"):
        load_corpus(config, show_progress=False)
    assert not [path for path in Path(str(config.cache_dir)).iterdir() if path.is_dir()]


def test_max_tokens_needs_more_than_a_few_documents(config: DataConfig) -> None:
    write(config, [text(0)])
    config.max_tokens = 1000
    with pytest.raises(UserError, match=r"^data\.max_tokens=1000: the source has too few documents to read only some"):
        load_corpus(config, show_progress=False)


def test_a_preparation_that_was_killed_gives_the_same_files(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(config, [text(0), text(1)])
    first = load_corpus(config, show_progress=False)
    kept = shutil.copytree(first.folder, tmp_path / "kept")
    parts = [(prepare.Preparation, name) for name in ("_provide_tokenizer", "_tokenise", "_shards")]
    for owner, name in [*parts, (prepare, "_describe"), (prepare, "_clear_up")]:
        shutil.rmtree(first.folder)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                load_corpus(config, show_progress=False)
        load_corpus(config, show_progress=False)
        for path in kept.iterdir():
            assert path.read_bytes() == (first.folder / path.name).read_bytes()


@pytest.mark.slow
@given(
    st.text(st.sampled_from(" \nab"), min_size=700, max_size=3000),
    st.sampled_from([(0.3, 0.3), (0.5, 0.0), (0.0, 0.4)]),
)
def test_stretches_are_the_text(content: str, fractions: tuple[float, float]) -> None:
    config = DataConfig("mine", "local", validation_fraction=fractions[0], test_fraction=fractions[1])
    document = Document("a", content)
    selection = Selection.of(config)
    assert is_long(document, selection)
    stretches = list(cut(document, selection))
    assert "".join(stretch.text for stretch in stretches) == content
    assert min(len(stretch.text) for stretch in stretches) >= 100
    assert len({stretch.split for stretch in stretches}) == 1 + sum(fraction > 0 for fraction in fractions)
