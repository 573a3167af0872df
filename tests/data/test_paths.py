"""Paths as people have them: any letters and characters, links, and endings in upper case."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from ttt.config.schema import DataConfig
from ttt.data.corpus import load_corpus
from ttt.data.local import Local, files_of
from ttt.data.vocabulary import check_tokenizer

NAMES = ["données-文字", "~notes", "a=b", "two words", "v (1)", "v [1]", "a,b", "a::b", "{a}", "it's"]


def names(path: object) -> list[str]:
    return [document.name for document in Local(DataConfig("local", "local", path=str(path))).documents()]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    (folder / name).mkdir(parents=True)
    (folder / f"{name}.txt").write_text("text")
    (folder / name / f"{name}.jsonl.gz").write_bytes(gzip.compress(b'{"text": "row"}\n'))
    monkeypatch.chdir(tmp_path)
    every = sorted([f"{name}.txt", f"{name}/{name}.jsonl.gz:1"])
    for path in (folder, name, f"{name}/**/*"):
        assert sorted(names(path)) == every
    assert names(f"{name}/{name}.txt") == names(f"{name}/*.txt") == [f"{name}.txt"]
    assert names(f"{name}/{name}/*.gz") == [f"{name}.jsonl.gz:1"]
    monkeypatch.chdir(folder)
    assert names(f"{name}.txt") == [f"{name}.txt"]


def test_a_corpus_below_any_name(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"v [1], ~é={number}").mkdir()
        (tmp_path / f"v [1], ~é={number}/a b.txt").write_text(f"text {number} " * 20)
    path, cache = f"{tmp_path}/v*/*.txt", f"{tmp_path}/v [1], ~é=0/cache"
    corpus = load_corpus(DataConfig("local", "local", path=path, vocab_size=258, cache_dir=cache), False)
    assert len(corpus.splits["train"]) == 4
    assert corpus.splits["train"].tokens[:].tolist()
    assert corpus.folder.parent == Path(cache)


def test_endings_in_upper_case(tmp_path: Path) -> None:
    row = json.dumps({"text": "row"}).encode()
    (tmp_path / "A.TXT").write_text("text")
    (tmp_path / "B.JSONL").write_bytes(row)
    (tmp_path / "C.Jsonl.GZ").write_bytes(gzip.compress(row))
    (tmp_path / "D.json.ZST").write_bytes(zstandard.compress(row))
    (tmp_path / "E.Md").write_text("left out")
    found = files_of(str(tmp_path))
    assert ([path.name for path in found.paths], found.left_out) == (
        ["A.TXT", "B.JSONL", "C.Jsonl.GZ", "D.json.ZST"],
        1,
    )
    assert names(tmp_path) == ["A.TXT", "B.JSONL:1", "C.Jsonl.GZ:1", "D.json.ZST:1"]
    for name, kind in (("Tokenizer.JSON", "tokenizer.json"), ("T.Model", "tokenizer.model")):
        (tmp_path / name).touch()
        assert check_tokenizer(tmp_path / name) == kind


def test_links_are_followed_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "inner").mkdir(parents=True)
    (disk / "inner/a.txt").write_text("a")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "b.txt").symlink_to(disk / "inner/a.txt")
    (texts / "more").symlink_to(disk)
    # A loop, and a second way to the same folder.
    (disk / "inner/back").symlink_to(texts)
    (texts / "twice").symlink_to(disk)
    (texts / "dangling.txt").symlink_to(tmp_path / "nothing")
    assert names(texts) == names(f"{texts}/**/*.txt") == ["b.txt", "more/inner/a.txt"]
    assert names(f"{texts}/*/inner/*.txt") == ["more/inner/a.txt", "twice/inner/a.txt"]
    (tmp_path / "linked").symlink_to(texts)
    assert names(tmp_path / "linked") == ["b.txt", "more/inner/a.txt"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a")
    assert names("~/texts") == names("~/texts/*.txt") == ["a.txt"]
