"""A corpus that travels as one file: the same corpus without its source, and every damage is named."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.schema import DataConfig, TrainConfig
from ttt.data.cache import prepared_digest, training_tokens
from ttt.data.corpus import load_corpus, verify
from ttt.data.local import check_paths
from ttt.data.packed import pack


@pytest.fixture
def packed(config: DataConfig, site: Path, tmp_path: Path) -> DataConfig:
    """Return a configuration that reads a packed corpus, on a machine without its source and with an empty cache."""
    corpus = load_corpus(config, show_progress=False)
    pack(corpus.folder, tmp_path / "corpus.zip", show_progress=False)
    shutil.rmtree(site / "tinycode")
    shutil.rmtree(site / "tinycode-1.0.dist-info")
    return replace(config, packed=str(tmp_path / "corpus.zip"), cache_dir=str(tmp_path / "there"))


def rewritten(packed: DataConfig, changes: dict[str, bytes | None]) -> None:
    """Replace members of the archive, or leave them out for None."""
    path = Path(str(packed.packed))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **changes}.items():
            if content is not None:
                archive.writestr(name, content)


def test_a_packed_corpus_is_the_same_without_its_source(config: DataConfig, packed: DataConfig, tmp_path: Path) -> None:
    check_paths(packed)
    folder = next((tmp_path / "cache").glob("tiny-*/"))
    digest = json.loads((folder / "manifest.json").read_text())["digest"]
    assert prepared_digest(packed) == digest, "before it is unpacked"
    corpus = load_corpus(packed, show_progress=False)
    verify(corpus)
    assert corpus.digest == digest
    assert training_tokens(packed) == (len(corpus.splits["train"].tokens), True)
    assert corpus.folder == tmp_path / "there" / folder.name, "the place that its source would give it"
    assert {path.name: path.read_bytes() for path in corpus.folder.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    again = tmp_path / "again.zip"
    pack(corpus.folder, again, show_progress=False)
    assert again.read_bytes() == (tmp_path / "corpus.zip").read_bytes()
    assert run_id(replace(TrainConfig(), data=config)) == run_id(replace(TrainConfig(), data=packed))


def manifest_of(packed: DataConfig) -> dict:
    with zipfile.ZipFile(str(packed.packed)) as archive:
        return json.loads(archive.read("manifest.json"))


def one_token_more(packed: DataConfig) -> dict[str, bytes | None]:
    """Change a file and its SHA-256 in the manifest, but not the digest of the corpus."""
    from hashlib import sha256

    manifest = manifest_of(packed)
    with zipfile.ZipFile(str(packed.packed)) as archive:
        content = bytearray(archive.read("train-00000.npy"))
    content[-1] ^= 1
    manifest["files"]["train-00000.npy"]["sha256"] = sha256(content).hexdigest()
    return {"train-00000.npy": bytes(content), "manifest.json": json.dumps(manifest).encode()}


def outside(packed: DataConfig) -> dict[str, bytes | None]:
    manifest = manifest_of(packed)
    manifest["files"]["../escaped"] = {"bytes": 1, "sha256": "0"}
    return {"manifest.json": json.dumps(manifest).encode(), "../escaped": b"x"}


def newer(packed: DataConfig) -> dict[str, bytes | None]:
    return {"manifest.json": json.dumps(manifest_of(packed) | {"format_version": 99}).encode()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda _: {"train-00000.npy": b"1" * 10}, "train-00000.npy does not have the"),
        (lambda _: {"train-00000.npy": b"1" * 10**7}, "train-00000.npy does not have the"),
        (lambda _: {"train.offsets.npy": None}, "There is no item named"),
        (lambda _: {"manifest.json": b"{}"}, "format_version"),
        (lambda _: {"manifest.json": b"no JSON"}, "Expecting value"),
        (one_token_more, "its tokens are not those of its digest"),
        (outside, r"names the file '../escaped'"),
        (newer, "has format 99, this ttt-suite reads"),
    ],
    ids=["short", "long", "missing", "empty", "text", "digest", "outside", "newer"],
)
def test_a_damaged_file_is_one_line_and_leaves_no_corpus(packed: DataConfig, change, line: str, tmp_path: Path) -> None:
    rewritten(packed, change(packed))
    with pytest.raises(UserError, match=line) as error:
        load_corpus(packed, show_progress=False)
    assert str(error.value).startswith(f"data.packed={packed.packed}: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("there/*/"))
    assert not (tmp_path / "escaped").exists()


def test_a_cut_file_other_settings_and_another_corpus_are_refused(packed: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was prepared with data.vocab_size=300, not 301"):
        load_corpus(replace(packed, vocab_size=301), show_progress=False)
    with pytest.raises(UserError, match="no such file"):
        check_paths(replace(packed, packed=str(tmp_path / "no.zip")))
    folder = load_corpus(packed, show_progress=False).folder
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"digest": "0" * 64}))
    with pytest.raises(UserError, match="has the digest 000000000000, the file"):
        load_corpus(packed, show_progress=False)
    path = Path(str(packed.packed))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"damaged, or no file of ttt-data pack \(File is not a zip file\)"):
        load_corpus(packed, show_progress=False)
