"""Corpora in the cache."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
import pytest
from omegaconf import OmegaConf

from ttt.config.errors import UserError
from ttt.config.keys import check_keys
from ttt.config.plan import check_data
from ttt.config.schema import DataConfig
from ttt.data import prepare
from ttt.data.corpus import Corpus, load_corpus, verify
from ttt.data.documents import sha256_of, split_of
from ttt.data.pycode import PyCode
from ttt.data.tokenizer import END_OF_DOCUMENT, load_tokenizer, save_tokenizer, train_tokenizer
from ttt.data.vocabulary import JSONVocabulary, open_vocabulary

ROOT = Path(__file__).parents[2]
LOAD = """
import json, sys
from ttt.config.schema import DataConfig
from ttt.data.corpus import load_corpus
print(load_corpus(DataConfig(**json.loads(sys.argv[1]))).digest)
"""


def document_list(corpus: Corpus) -> list[dict]:
    return [json.loads(line) for line in (corpus.folder / "documents.jsonl").read_text().splitlines()]


def test_documents_are_stored_whole_and_once(config: DataConfig, site: Path) -> None:
    corpus = load_corpus(config, show_progress=False)
    tokenizer = load_tokenizer(corpus.folder / "tokenizer.json")
    entries = iter(document_list(corpus))
    for split, documents in corpus.splits.items():
        assert len(documents) > 0
        for start, end in zip(documents.offsets, documents.offsets[1:], strict=False):
            tokens = documents.tokens[start:end].tolist()
            entry = next(entries)
            assert (entry["split"], entry["tokens"]) == (split, len(tokens))
            assert tokens[-1] == tokenizer.token_to_id(END_OF_DOCUMENT)
            assert tokenizer.decode(tokens[:-1]) == (site / entry["name"]).read_bytes().decode()
    hashes = [entry["sha256"] for entry in document_list(corpus)]
    assert len(hashes) == len(set(hashes)) == 60


def test_manifest(config: DataConfig) -> None:
    corpus = load_corpus(config, show_progress=False)
    manifest = corpus.manifest
    assert manifest["versions"] == {"tinycode": "1.0"}
    assert manifest["digest"] == corpus.digest
    assert manifest["vocab_size"] == corpus.vocab_size == 300
    for split, sizes in manifest["splits"].items():
        names = [entry["name"] for entry in document_list(corpus) if entry["split"] == split]
        assert sizes["documents"] == len(names) == len(corpus.splits[split])
        assert sizes["tokens"] == corpus.splits[split].lengths.sum()
    assert sum(sizes["bytes"] for sizes in manifest["splits"].values()) > 10_000


def test_tokens_are_mapped_and_small(config: DataConfig) -> None:
    tokens = load_corpus(config, show_progress=False).splits["train"].tokens[:10]
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16


def test_prepared_twice_gives_the_same_files(config: DataConfig, tmp_path: Path) -> None:
    first = load_corpus(config, show_progress=False)
    config.cache_dir = str(tmp_path / "other")
    second = load_corpus(config, show_progress=False)
    assert first.digest == second.digest
    assert first.folder.name == second.folder.name
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()


def test_second_load_reads_no_document(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_corpus(config, show_progress=False)
    monkeypatch.delattr(PyCode, "documents")
    config.eval_tokens += 1
    assert load_corpus(config).folder == first.folder


def test_what_determines_the_content_determines_the_folder(config: DataConfig, site: Path) -> None:
    first = load_corpus(config, show_progress=False)
    config.vocab_size = 290
    second = load_corpus(config, show_progress=False)
    metadata = site / "tinycode-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    third = load_corpus(config, show_progress=False)
    assert len({corpus.folder for corpus in (first, second, third)}) == 3
    assert first.digest != second.digest == third.digest


def test_a_split_may_be_empty(config: DataConfig) -> None:
    config.validation_fraction = config.test_fraction = 0.0
    corpus = load_corpus(config, show_progress=False)
    assert [len(corpus.splits[split]) for split in ("train", "validation", "test")] == [60, 0, 0]


def test_progress_can_be_shown_or_not(config: DataConfig, capsys: pytest.CaptureFixture[str]) -> None:
    load_corpus(config)
    shown = capsys.readouterr().err
    assert all(
        part in shown for part in ("preparing data=tiny", "reading", "training tokenizer", "tokenising", "hashing")
    )
    shutil.rmtree(str(config.cache_dir))
    load_corpus(config, show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_two_processes_at_once_prepare_one_corpus(config: DataConfig, site: Path) -> None:
    corpus = load_corpus(config, show_progress=False)
    folder = corpus.folder
    shutil.rmtree(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-c", LOAD, json.dumps(asdict(config))]
    with filelock.FileLock(f"{folder}.lock"):
        processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        # Start the preparation in both at the same time.
        waiting = [process.stderr.readline() for process in processes if process.stderr]
    assert all(line.startswith(f"waiting for another process that prepares {folder}") for line in waiting)
    results = [process.communicate(timeout=600) for process in processes]
    assert [out.strip() for out, _ in results] == [corpus.digest, corpus.digest]
    assert sum("preparing data=tiny" in err for _, err in results) == 1
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_a_full_disk_leaves_no_corpus_and_the_next_attempt_resumes(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_shard", fail)
        with pytest.raises(UserError, match=rf"^data\.cache_dir={config.cache_dir}: .*No space left.*another folder$"):
            load_corpus(config, show_progress=False)
    assert [path.suffix for path in Path(str(config.cache_dir)).iterdir() if path.is_dir()] == [".partial"]
    monkeypatch.setattr(prepare, "write_partial_shard", fail)
    load_corpus(config, show_progress=False)
    assert [path.suffix for path in Path(str(config.cache_dir)).iterdir() if path.is_dir()] == [""]


def test_unusable_cache(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config.cache_dir = str(tmp_path / "file" / "cache")
    with pytest.raises(UserError, match=rf"^data\.cache_dir={config.cache_dir}: cannot be written \(Not a directory\)"):
        load_corpus(config, show_progress=False)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_list(path: Path) -> None:
    path.write_text("[]")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-00000.npy", Path.unlink),
        ("train-00000.npy", truncate),
        ("train-00000.npy", empty),
        ("test.offsets.npy", truncate),
        ("documents.jsonl", truncate),
        ("tokenizer.json", truncate),
        ("manifest.json", truncate),
        ("manifest.json", become_a_list),
        ("manifest.json", Path.unlink),
    ],
)
def test_damaged_cache(config: DataConfig, name: str, damage: Callable[[Path], None]) -> None:
    folder = load_corpus(config, show_progress=False).folder
    damage(folder / name)
    with pytest.raises(UserError, match=rf"^{folder}: damaged \(.*\); delete this folder") as caught:
        load_corpus(config, show_progress=False)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or name == "manifest.json"


def test_a_tokenizer_of_another_vocabulary(config: DataConfig) -> None:
    folder = load_corpus(config, show_progress=False).folder
    path = folder / "tokenizer.json"
    save_tokenizer(train_tokenizer(["other texts"] * 100, 260), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    open_vocabulary.cache_clear()
    with pytest.raises(
        UserError, match=r"tokenizer\.json of 260 tokens is not the one of the shards, of 300\); delete"
    ):
        load_corpus(config, show_progress=False)


def test_a_manifest_of_a_newer_version(config: DataConfig) -> None:
    folder = load_corpus(config, show_progress=False).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(UserError, match=rf"^{folder}/manifest\.json: has format 99, this ttt-suite reads \d+; install"):
        load_corpus(config, show_progress=False)


@pytest.mark.parametrize("name", ["train-00000.npy", "documents.jsonl"])
def test_a_flipped_bit_is_found_by_verifying(config: DataConfig, name: str) -> None:
    corpus = load_corpus(config, show_progress=False)
    verify(corpus)
    path = corpus.folder / name
    content = bytearray(path.read_bytes())
    content[-12] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: damaged \(its SHA-256 .* is not .*\); delete its folder"):
        verify(load_corpus(config, show_progress=False))


def test_a_flipped_bit_never_gives_other_tokens(config: DataConfig) -> None:
    """Any bit of any file that training reads, except the manifest; a shard is only checked where it is read."""
    corpus = load_corpus(config, show_progress=False)
    whole = {split: documents.tokens[:].tolist() for split, documents in corpus.splits.items()}
    names = ("train-00000.npy", "train.offsets.npy", "train.sums.npy", "test-00000.npy", "tokenizer.json")
    rng = random.Random(0)
    for name in names:
        path, content, lines = corpus.folder / name, (corpus.folder / name).read_bytes(), []
        for place in [127, len(content) - 1, *rng.choices(range(len(content)), k=8)]:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
            try:
                read = {split: part.tokens[:].tolist() for split, part in load_corpus(config, False).splits.items()}
                assert read == whole
            except UserError as error:
                lines.append(str(error))
        path.write_bytes(content)
        named = (
            rf"{path}: damaged \(block \d of \d has .* delete|{corpus.folder}: damaged \({name}.* delete this folder"
        )
        assert all(re.match(named, line) for line in lines), lines
        # A bit in the header of a shard has no effect.
        assert len(lines) >= 8 if name.endswith("00000.npy") else len(lines) == 10


def check_and_load(config: DataConfig) -> None:
    """Use a configuration as the commands do."""
    check_keys(config, "data.")
    check_data(config)
    load_corpus(config, show_progress=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 256),
        ("min_chars", 100_001),
        ("validation_fraction", 1.0),
        ("validation_fraction", -0.1),
        ("test_fraction", 0.8),
        ("source", "pile"),
    ],
)
def test_values_that_are_not_allowed(config: DataConfig, key: str, value: object) -> None:
    setattr(config, key, value)
    with pytest.raises(UserError, match=rf"^data\.{key}={value}: "):
        check_and_load(config)
    assert not Path(str(config.cache_dir)).exists()


@pytest.mark.slow
def test_the_shipped_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every training document only the first eighth is tokenised, to save time."""
    encode = JSONVocabulary.encode

    def shortened(text: str) -> str:
        train = split_of(sha256_of(text), config.validation_fraction, config.test_fraction) == "train"
        return text[: len(text) // 8] if train else text

    monkeypatch.setattr(JSONVocabulary, "encode", lambda self, texts: encode(self, [*map(shortened, texts)]))
    shipped = OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.load(ROOT / "conf/data/pycode.yaml"))
    config = OmegaConf.to_object(shipped)
    assert isinstance(config, DataConfig)
    config.cache_dir, config.workers = str(tmp_path), 1
    corpus = load_corpus(config)
    assert corpus.vocab_size == config.vocab_size
    assert corpus.splits["train"].lengths.sum() > 20_000_000 / 8
    for split in ("validation", "test"):
        assert (corpus.splits[split].lengths > 2**15).sum() >= 3
        assert corpus.splits[split].lengths.sum() > config.eval_tokens
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert load_corpus(config).digest == corpus.digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "it is prepared once"
