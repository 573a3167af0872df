"""Validation while training changes nothing of the training, and a live run can be evaluated."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ttt.analysis.store import load_results
from ttt.cli.eval import evaluate
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.plan import check
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.evaluate import losses
from ttt.plots.files import drawn
from ttt.plots.training import FIGURE
from ttt.results.lock import locked
from ttt.results.metrics import VALIDATION_WHILE_TRAINING
from ttt.train.module import TrainingModule

Configure = Callable[..., TrainConfig]

COMMON = ("trainer.max_steps=4", "trainer.checkpoint_every=1")


def rows(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics.parquet")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/step-00000004.ckpt", weights_only=True)["state_dict"]


def contents(run: Path) -> dict[Path, bytes]:
    own = (path for path in run.rglob("*") if path.is_file() and "lock" not in path.name)
    return {path: path.read_bytes() for path in own}


@pytest.mark.slow
def test_validation_while_training(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(f"run={tmp_path}/plain/run", *COMMON), [])
    run = tmp_path / "validated/run"
    monkeypatch.setattr("ttt.config.progress.SECONDS_BETWEEN_LINES", 0.0)
    train(configure(f"run={run}", *COMMON, "trainer.eval_every=2", "trainer.progress=true"), [])
    # The bar begins after the first step, so that its compilation does not count into the time left.
    errors = capsys.readouterr().err
    assert "first step: kernel=" in errors
    assert "training: 1/4" not in errors
    assert "training: 2/4" in errors
    table = rows(run)
    validated = table[table.metric == VALIDATION_WHILE_TRAINING]
    assert validated.step.tolist() == [2, 4]
    final = table[(table.split == "validation") & (table.metric == "loss") & table.position.isna()]
    assert validated.value.iloc[-1] == final.value.item()
    plain = rows(tmp_path / "plain/run")
    assert table[table.split == "train"].value.tolist() == plain[plain.split == "train"].value.tolist()
    theirs = weights(tmp_path / "plain/run")
    assert all(torch.equal(value, theirs[name]) for name, value in weights(run).items())
    _stop_after(monkeypatch, 3)
    with pytest.raises(Exception, match="stopped by SIGTERM"):
        train(configure(f"run={tmp_path}/again", *COMMON, "trainer.eval_every=2"), [])
    monkeypatch.undo()
    train(configure(f"run={tmp_path}/again", *COMMON, "trainer.eval_every=2", "ckpt=last"), [])
    assert (tmp_path / "again/metrics.parquet").read_bytes() == (run / "metrics.parquet").read_bytes()
    figure = FIGURE.table(load_results(run.parent))
    assert figure["validation_loss"].dropna().tolist() == validated.value.tolist()
    assert drawn(FIGURE, figure, ["png"])["png"]
    with pytest.raises(UserError, match=r"trainer.eval_every=2: must be 0 with trainer.strategy=fsdp"):
        check(configure("trainer.strategy=fsdp", "trainer.eval_every=2", "trainer.device=cuda"))


def _stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    begin = TrainingModule.on_train_batch_start

    def signalled(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        begin(self, batch, batch_idx)
        if self.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", signalled)


@pytest.fixture
def run(configure: Configure, tmp_path: Path) -> Path:
    train(configure(f"run={tmp_path}/run", *COMMON), [])
    return tmp_path / "run"


def test_a_run_that_is_training_is_evaluated_without_a_trace(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints/step-00000004.ckpt").unlink()
    (run / "checkpoints/step-00000004.ckpt.sha256").unlink()
    live = json.loads((run / "record.json").read_text()) | {"status": "running", "results": {}}
    (run / "record.json").write_text(json.dumps(live))
    capsys.readouterr()
    with locked(run):
        before = contents(run)
        for options in ({}, {"probe": "inner_loss"}, {"probe": "copy"}):
            evaluate(EvalConfig(run=str(run), device="cpu", **options), [])
        assert contents(run) == before
    printed = capsys.readouterr()
    assert "nats/token) at step 3\n" in printed.out
    assert "is being written by process" in printed.err
    assert "its newest checkpoint is read, the result printed and not stored" in printed.err


def test_sigterm_ends_an_evaluation_with_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(losses, "token_predictions", killed)
    capsys.readouterr()
    before, handler = contents(run), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        evaluate(EvalConfig(run=str(run), device="cpu", eval_tokens=64), [])
    assert stopped.value.code == 143
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"error: {run}: the evaluation was stopped by SIGTERM; nothing of it is stored"
    assert contents(run) == before
    assert not (run / "lock.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_damaged_metrics_change_no_record(
    run: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    (run / "metrics.parquet").write_bytes(b"PAR1")
    (run / "checkpoints/step-00000004.ckpt").write_bytes(b"")
    record = json.loads((run / "record.json").read_text()) | {"status": status}
    (run / "record.json").write_text(json.dumps(record))
    before = contents(run)
    with pytest.raises(UserError, match=r"metrics.parquet: not a table of metrics") as refused:
        train(configure(f"run={run}", *COMMON, "ckpt=last"), [])
    assert "ckpt=last" not in str(refused.value)
    assert contents(run) == before
    monkeypatch.setattr("ttt.evaluate.run.evaluate_split", None)
    (run / "record.json").write_text(json.dumps(record | {"status": "interrupted", "results": {}}))
    with pytest.raises(UserError, match=r"metrics.parquet: not a table of metrics"):
        evaluate(EvalConfig(run=str(run), device="cpu"), [])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data=local", "data.path=nope"], "data.path=nope: does not exist"),
        (["data=local"], "data.path=null: give a folder, a file, or a pattern"),
        (["data.tokenizer=nope.json"], "data.tokenizer=nope.json: no such file"),
    ],
    ids=str,
)
def test_a_missing_file_is_named_before_torch_is_loaded(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], line: str
) -> None:
    # Importing it would fail: train() imports it first of all modules that need torch.
    monkeypatch.setitem(sys.modules, "ttt.train.prepare", None)
    with pytest.raises(UserError, match=line):
        train(configure(f"run={tmp_path}/run", *overrides), [])
    assert not (tmp_path / "run").exists()
