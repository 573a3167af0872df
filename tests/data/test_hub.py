"""Data sets of the hub, without a network."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

from ttt.config.errors import RunError, UserError
from ttt.config.plan import check_data
from ttt.config.schema import DataConfig
from ttt.data import prepare
from ttt.data.corpus import load_corpus
from ttt.data.manifest import corpus_key, describe
from ttt.data.sources import UnreachableError, open_source


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(
        "pile", "hub", hub="owner/name", min_chars=1, max_chars=1000, vocab_size=270, cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand more")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(dataset_info=refuse))


@pytest.mark.usefixtures("offline")
def test_without_network_the_line_names_the_alternatives(config: DataConfig) -> None:
    with pytest.raises(UserError) as caught:
        load_corpus(config, show_progress=False)
    line = str(caught.value)
    assert line.startswith("data.hub=owner/name: cannot be read (ConnectionError: Name or service not known)")
    assert all(part in line for part in ("data.path=FOLDER", "data=local", "data=pycode"))
    assert "\n" not in line
    assert not [path for path in Path(str(config.cache_dir)).iterdir() if path.is_dir()]


@pytest.mark.usefixtures("offline")
def test_a_copy_needs_no_network(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    rows = ({"text": f"text {number}", "meta": {}} for number in range(50))
    (tmp_path / "copy" / "00.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.path = str(tmp_path / "copy")
    corpus = load_corpus(config, show_progress=False)
    assert len(corpus.splits["train"]) == 50


def test_a_connection_that_breaks_off_loses_nothing(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    def rows(*_: object, **__: object) -> Iterator[dict[str, str]]:
        for number in range(20):
            yield {"text": f"text {number}"}
            if broken and number == 15:
                raise TimeoutError("timed out")

    api = SimpleNamespace(dataset_info=lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(datasets, "load_dataset", rows)
    monkeypatch.setattr(sys.modules["ttt.data.partial_shards"], "PARTIAL_SHARD_CHARS", 40)
    # The sample for the tokenizer ends before the row at which the connection breaks.
    monkeypatch.setattr(sys.modules["ttt.data.documents"], "READ_FOR_SAMPLE", 30)
    with pytest.raises(RunError, match=r"^data\.hub=owner/name: broke off after row 16 \(TimeoutError: timed out\)"):
        load_corpus(config, show_progress=False)
    broken = False
    kept: list[object] = []
    write = prepare.write_partial_shard
    monkeypatch.setattr(prepare, "write_partial_shard", lambda shard: (kept.append(shard), write(shard)))
    assert len(load_corpus(config, show_progress=False).splits["train"]) == 20
    assert len(kept) < 4


def test_a_source_that_needs_a_name(config: DataConfig) -> None:
    config.hub = None
    with pytest.raises(UserError, match=r"^data\.hub=null: give OWNER/NAME"):
        open_source(config).versions()
    assert issubclass(UnreachableError, UserError)


@pytest.fixture
def languages(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Return the configuration of a data set with two subsets of two splits, which the library itself reads."""
    folder = tmp_path / "languages"
    configs = []
    for subset in ("de", "en"):
        (folder / subset).mkdir(parents=True)
        for split in ("train", "dev"):
            lines = (json.dumps({"text": f"{subset} {split} {number}"}) for number in range(3))
            (folder / subset / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        files = [{"split": split, "path": f"{subset}/{split}.jsonl"} for split in ("train", "dev")]
        configs.append({"config_name": subset, "data_files": files})
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    api = SimpleNamespace(dataset_info=lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    config.hub = str(folder)
    return config


@pytest.mark.parametrize(
    ("split", "read"), [("train", ["en train"] * 3), ("dev", ["en dev"] * 3), ("dev+train", ["en dev", "en train"] * 3)]
)
def test_a_subset_and_a_split(languages: DataConfig, split: str, read: list[str]) -> None:
    languages.subset, languages.split = "en", split
    texts = [document.text for document in open_source(languages).documents()]
    assert sorted(text[:-2] for text in texts) == sorted(read)


@pytest.mark.parametrize(
    ("subset", "split", "line"),
    [
        (None, "train", "data.subset=null: {hub} has de, en; choose one"),
        ("fr", "train", "data.subset=fr: {hub} has de, en; choose one"),
        ("en", "validation", "data.split=validation: {hub} has train, dev; choose one"),
        ("en", "train[:10%]", "data.split=train[:10%]: {hub} has train, dev; choose one"),
        ("en", "dev+test", "data.split=dev+test: {hub} has train, dev; choose one"),
    ],
)
def test_a_wrong_choice_lists_the_choices(languages: DataConfig, subset: str | None, split: str, line: str) -> None:
    languages.subset, languages.split = subset, split
    with pytest.raises(UserError) as caught:
        load_corpus(languages, show_progress=False)
    assert str(caught.value) == line.format(hub=languages.hub)
    assert not [path for path in Path(str(languages.cache_dir)).iterdir() if path.is_dir()]


def test_subset_and_split_are_in_manifest_and_name_only_if_given(config: DataConfig) -> None:
    described = describe(config, {})
    assert not {"subset", "split", "max_tokens", "join"} & described["settings"].keys()
    keys = {corpus_key(described)}
    for name, value in (("subset", "en"), ("split", "test"), ("max_tokens", 5)):
        changed = describe(replace(config, **{name: value}), {})
        assert changed["settings"][name] == value
        keys.add(corpus_key(changed))
    assert len(keys) == 4


@pytest.mark.parametrize(("name", "value"), [("subset", "en"), ("split", "test")])
def test_a_choice_that_would_be_ignored_is_refused(config: DataConfig, name: str, value: str) -> None:
    for change in (
        {"path": "copy"},
        {"source": "local", "path": "texts"},
        {"source": "pycode", "packages": ["stdlib"]},
    ):
        with pytest.raises(UserError, match=rf"^data\.{name}={value}: chooses from a data set of the hub; "):
            check_data(replace(config, **{name: value, **change}))
