"""Inner loops that grow or diverge during training: they are reported, and probing changes nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ttt.cli.train import train
from ttt.config.errors import RunError
from ttt.config.schema import TrainConfig
from ttt.train.inner_watch import InnerWatch

Configure = Callable[..., TrainConfig]

UNSTABLE = ["model.norm=false", "model.learnable_norm=false", "model.mini_batch_size=1", "trainer.checkpoint_every=2"]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def as_lines(warnings: dict[str, str]) -> list[str]:
    return [f"{subject}: {text}" for subject, text in warnings.items()]


@pytest.mark.slow
def test_growth_is_reported_once_for_each_inner_loop(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        f"run={tmp_path}/run",
        *UNSTABLE,
        "model.eta_base=20",
        "model.eta_base_start=1",
        "recipe.learning_rate=4e-3",
    ]
    train(configure(*common, "trainer.max_steps=4"), [])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert lines[0].startswith("warning: train, layer 1, head 0: at step 2 the inner loss grew from ")
    assert lines[0].endswith("; lower model.eta_base")
    places = [line.split(":")[1] for line in lines]
    assert len(places) == len(set(places))
    assert as_lines(record(tmp_path / "run")["warnings"]) == [line.removeprefix("warning: ") for line in lines]
    train(configure(*common, "trainer.max_steps=6", "ckpt=last"), [])
    repeated = [line for line in capsys.readouterr().err.splitlines() if line.split(":")[1:2] == places[:1]]
    assert repeated == []
    kept = as_lines(record(tmp_path / "run")["warnings"])
    assert kept[: len(lines)] == [line.removeprefix("warning: ") for line in lines]


@pytest.mark.slow
def test_a_run_that_learns_has_no_warnings(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.checkpoint_every=3"), [])
    assert "warning: " not in capsys.readouterr().err
    assert "warnings" not in record(tmp_path / "run")


@pytest.mark.slow
def test_probing_changes_nothing(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["trainer.checkpoint_every=2", "model=ttt_mlp"]
    looks: list[int] = []
    found = InnerWatch._warnings
    monkeypatch.setattr(InnerWatch, "_warnings", lambda *given: looks.append(given[2]) or found(*given))
    train(configure(f"run={tmp_path}/watched", *common), [])
    assert looks == [2, 4, 6, 8, 10, 12]
    monkeypatch.setattr(InnerWatch, "_warnings", lambda *_: {})
    train(configure(f"run={tmp_path}/unwatched", *common), [])
    runs = [tmp_path / name for name in ("watched", "unwatched")]
    assert len({(run / "metrics.parquet").read_bytes() for run in runs}) == 1
    mine, theirs = (torch.load(run / "checkpoints/step-00000012.ckpt", weights_only=True)["state_dict"] for run in runs)
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.mark.parametrize("switches", [["model=ttt_mlp", "model.eta_base_start=1e15"], UNSTABLE], ids=["mlp", "linear"])
def test_a_divergence_names_the_inner_loop(configure: Configure, tmp_path: Path, switches: list[str]) -> None:
    with pytest.raises(RunError) as error:
        train(configure(f"run={tmp_path}/run", *switches, "model.eta_base=1e15", "size.blocks=2"), [])
    assert re.search(r"the inner loop of layer 1, head 0 diverged in mini-batch \d+ \(token", str(error.value))
    assert "; no checkpoint had been written" in str(error.value)
    assert record(tmp_path / "run")["error"] == str(error.value)
    assert record(tmp_path / "run")["status"] == "diverged"
