"""Evaluating takes nothing away from a run whose newest checkpoint is older than its last step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt.cli.eval import evaluate
from ttt.cli.train import train
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.results.metrics import read_metrics

Configure = Callable[..., TrainConfig]

COMMON = ["trainer.checkpoint_every=2", "trainer.max_steps=3", "trainer.eval_test=false"]


@pytest.fixture
def run(configure: Configure, tmp_path: Path) -> Path:
    """Return a run of three steps with checkpoints after steps 2 and 3."""
    train(configure(f"run={tmp_path}/run", *COMMON), [])
    return tmp_path / "run"


def damage_the_last(run: Path) -> None:
    path = run / "checkpoints/step-00000003.ckpt"
    path.write_bytes(path.read_bytes()[:-100])


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def train_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run / "metrics.parquet").to_pylist() if row["split"] == "train"]


def change(run: Path, **values: Any) -> None:
    (run / "record.json").write_text(json.dumps(record(run) | values))


@pytest.mark.parametrize("settings", [{}, {"split": "test"}, {"probe": "inner_loss"}, {"probe": "copy"}], ids=str)
def test_a_finished_run_keeps_its_results(
    run: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any]
) -> None:
    assert record(run)["results"]["validation"]["step"] == 3
    damage_the_last(run)
    before = contents(run)
    capsys.readouterr()
    evaluate(EvalConfig(run=str(run), device="cpu", **settings), [])
    assert contents(run) == before
    printed = capsys.readouterr()
    assert printed.out
    assert "the newest checkpoint is of step 2, the run's results are of a later one (3 done)" in printed.err


def test_an_unfinished_run_keeps_its_training_rows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage_the_last(run)
    change(run, status="interrupted", results={})
    before = train_rows(run)
    assert max(row["step"] for row in before) == 3
    capsys.readouterr()
    evaluate(EvalConfig(run=str(run), device="cpu", split="test"), [])
    after = read_metrics(run / "metrics.parquet").to_pandas()
    assert train_rows(run) == before
    assert "nats/token) at step 2\n" in capsys.readouterr().out
    assert set(after.query("split == 'test'")["step"]) == {2}
    assert record(run)["results"]["test"]["step"] == 2


def test_a_finished_run_without_its_last_weights_is_trained_to_its_end_again(
    run: Path, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "whole")
    damage_the_last(run)
    capsys.readouterr()
    train(configure(f"run={run}", *COMMON), [])
    assert "is finished" in capsys.readouterr().out
    train(configure(f"run={run}", *COMMON, "ckpt=last"), [])
    printed = capsys.readouterr()
    assert "is finished" not in printed.out
    assert printed.err.count("step-00000003.ckpt: is damaged") == 1
    assert (run / "metrics.parquet").read_bytes() == (tmp_path / "whole/metrics.parquet").read_bytes()
    assert record(run)["results"] == record(tmp_path / "whole")["results"]
    train(configure(f"run={run}", *COMMON, "ckpt=last"), [])
    assert "is finished" in capsys.readouterr().out


def test_a_finished_run_whose_checkpoints_were_removed_stays_finished(
    run: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    train(configure(f"run={run}", *COMMON, "ckpt=last"), [])
    assert "is finished" in capsys.readouterr().out
    assert contents(run) == before
