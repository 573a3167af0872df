"""A source in one new file: its keys on the command line, in a record, and in a child run."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException

import ttt.data
from ttt.cli import compose
from ttt.cli.added import added_sources
from ttt.cli.help import describe_group
from ttt.cli.parent import inherited
from ttt.config.errors import UserError
from ttt.config.layers import TTTConfig
from ttt.config.plain import from_plain, to_plain
from ttt.config.schema import TrainConfig
from ttt.data import sources
from ttt.data.corpus import load_corpus
from ttt.data.sources import data_schema

REPEATED = '''
from dataclasses import dataclass
from ttt.config.schema import DataConfig
from ttt.data.sources import Document, Source, register_source

@dataclass
class RepeatedConfig(DataConfig):
    word: str = "???"
    times: int = 100

@register_source(
    name="repeated", schema=RepeatedConfig
)
class Repeated(Source[RepeatedConfig]):
    """One word, again and again."""

    def versions(self):
        return {self.config.word: str(self.config.times)}

    def documents(self):
        for number in range(self.config.times):
            yield Document(str(number), f"{self.config.word} {number} " * 100)
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register a source ``repeated`` as if its file were in ``ttt/data/``."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "repeated.py").write_text(REPEATED)
    monkeypatch.setattr(ttt.data, "__path__", [*ttt.data.__path__, str(folder)])
    compose.register_schemas()
    yield
    # The next test has another class of this name.
    compose._of_groups.cache_clear()
    sys.modules.pop("ttt.data.repeated", None)
    sources._SOURCES.pop("repeated", None)
    for group in (ConfigStore.instance().repo["data"], ConfigStore.instance().repo["schema"]["data"]):
        group.pop("repeated.yaml", None)


@pytest.fixture
def composed(source: None, configure: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:  # noqa: ARG001
    """Return the configuration of ``ttt-train data=repeated data.word=moon``."""
    return configure("data=repeated", "data.word=moon", f"data.cache_dir={tmp_path}/cache")


def test_a_source_has_its_own_keys_and_the_values_of_local_texts(composed: TrainConfig) -> None:
    data = composed.data
    assert (data.name, data.source, data.word, data.times) == ("repeated", "repeated", "moon", 100)
    assert (data.validation_fraction, data.max_chars) == (0.05, 100_000_000)
    corpus = load_corpus(data, show_progress=False)
    assert sum(map(len, corpus.splits.values())) == 100
    assert corpus.manifest["settings"]["word"] == "moon"


@pytest.mark.usefixtures("source")
def test_an_unknown_key_is_refused(configure: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigCompositionException, match=r"data\.wrod"):
        configure("data=repeated", "data.wrod=moon")


def test_records_are_read_back(composed: TrainConfig) -> None:
    plain = to_plain(composed)
    assert data_schema(plain) is type(composed.data)
    assert from_plain(plain, TTTConfig, data_schema(plain)).data == composed.data


def test_a_child_run_inherits_the_keys(composed: TrainConfig, configure: Callable[..., TrainConfig]) -> None:
    child = configure(*inherited(to_plain(composed), ["model", "size", "backbone", "ctx"]))
    assert child.data == composed.data


@pytest.mark.usefixtures("source")
def test_help_lists_the_source() -> None:
    assert "One word, again and again." in describe_group("data")


def test_shipped_sources_are_not_imported_for_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert added_sources() == {}
    (tmp_path / "odd.py").write_text("from ttt.data.sources import register_source\nregister_source(NAME)\n")
    monkeypatch.setattr(ttt.data, "__path__", [*ttt.data.__path__, str(tmp_path)])
    with pytest.raises(UserError, match=r"odd\.py:2: register_source: the name must be a string literal"):
        added_sources()
