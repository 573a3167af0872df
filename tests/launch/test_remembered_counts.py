"""Counts of models are remembered, so that a second plan needs no torch, until their source changes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_cases import called

from ttt.config.schema import TrainConfig
from ttt.launch import counts
from ttt.launch.counts import model_counts
from ttt.models import count
from ttt.models.count import count as count_directly


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the models that are built from now on; counts are remembered in a folder of the test."""
    names, counted_model = list[str](), count.counted_model
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def counting(config: TrainConfig) -> count.Counted:
        names.append(config.model.name)
        return counted_model(config)

    monkeypatch.setattr(count, "counted_model", counting)
    return names


def test_equal_models_are_counted_once_and_never_again(configure: Callable[..., TrainConfig], built: list[str]) -> None:
    """Of four runs with two models, one of them at two contexts, two are built, and none at the second call."""
    configs = [
        configure("model=mamba"), configure("model=ttt_mlp"), configure("model=mamba", "seed=1"),
        configure("model=mamba", "ctx.length=128"),
    ]  # fmt: skip
    first = model_counts(configs)
    assert sorted(built) == ["mamba", "ttt_mlp"]
    assert first == model_counts(configs)
    assert len(built) == 2
    for config, (parameters, flops) in zip(configs, first, strict=True):
        assert (parameters, flops) == count_directly(config, config.ctx.length)


def test_counts_of_another_source_or_a_broken_file_are_not_used(
    configure: Callable[..., TrainConfig], built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed source, and a file that is cut off, are counted again."""
    config = configure("model=mamba")
    found = model_counts([config])
    monkeypatch.setattr(counts, "source_digest", lambda: "changed")
    assert model_counts([config]) == found
    assert len(built) == 2
    path = counts.remembered_path()
    path.write_text(path.read_text()[:40])
    assert model_counts([config]) == found
    assert len(built) == 3


def test_without_a_cache_models_are_counted_each_time(
    configure: Callable[..., TrainConfig], built: list[str], tmp_path: Path
) -> None:
    """A cache that cannot be written is no error."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert model_counts([configure()]) == model_counts([configure()])
    assert len(built) == 2


@pytest.mark.slow
def test_a_second_plan_needs_no_torch(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ttt-sweep plan`` in another process prints the same, without importing torch."""
    words = ["plan", "sweep=ablation", "scale=paper", f"runs={tmp_path}"]
    _, out, _ = called(words, monkeypatch, capsys)
    assert built
    command = "import sys; from ttt.cli.sweep.main import main; main(); sys.exit('torch' in sys.modules)"
    second = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True)
    assert (second.returncode, second.stdout, second.stderr) == (0, out, "")
