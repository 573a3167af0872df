"""A run on text files of its own, started in a directory that the tests leave."""

from collections.abc import Callable
from pathlib import Path

import pytest
from written_texts import write_texts

from ttt.cli.train import train
from ttt.config.schema import TrainConfig


@pytest.fixture
def run_of_texts(configure: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of two steps with relative paths, started in ``tmp_path/start``; the test is in another directory.

    The run's text is in ``start/texts`` and its corpus in ``start/cache``.
    """
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    write_texts(start / "texts", seed=0)
    elsewhere.mkdir()
    monkeypatch.chdir(start)
    data = ["data=local", "data.path=texts", "data.cache_dir=cache", "data.validation_fraction=0.3"]
    train(configure(*data, "runs=runs", "run=runs/run", "trainer.max_steps=2"), [])
    monkeypatch.chdir(elsewhere)
    return start / "runs/run"
