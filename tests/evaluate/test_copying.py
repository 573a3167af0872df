"""Losses of repeated text compared with sums by hand, in the record of a run, and by ``ttt-eval probe=copy``."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ttt.analysis.store import load_results
from ttt.cli import eval as command
from ttt.cli.train import train
from ttt.config.errors import DivergedError
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.data.windows import Windows
from ttt.evaluate.copying import measure_copying
from ttt.evaluate.run import Reading, TrainedRun
from ttt.results.copying import COPIES_BELOW
from ttt.train import run as training

Configure = Callable[..., TrainConfig]

V = 50


class Copying(nn.Module):
    """Gives the token that followed the last occurrence of the present one a logit of 5, every other token 0."""

    def forward(self, ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, V)
        for row, sequence in enumerate(ids.tolist()):
            following: dict[int, int] = {}
            for place, token in enumerate(sequence):
                if token in following:
                    logits[row, place, following[token]] = 5.0
                if place + 1 < len(sequence):
                    following[token] = sequence[place + 1]
        return logits


@pytest.mark.parametrize("device_tokens", [1, 10_000])
def test_the_same_tokens_are_judged_at_both_readings(device_tokens: int) -> None:
    """No token occurs twice in a half, so that nothing can be copied at the first reading and all at the second."""
    halves = Windows(np.arange(V).astype(np.uint16), np.array([0, 20, 30]), 10)
    reading = Reading(20, 1, torch.device("cpu"), device_tokens, show_progress=False)
    losses = measure_copying(cast(TrainedRun, SimpleNamespace(model=Copying(), reading=reading)), halves)
    assert losses.windows == 3
    assert losses.first == pytest.approx(math.log(V), abs=1e-6)
    assert losses.repeated == pytest.approx(math.log(math.exp(5) + V - 1) - 5, abs=1e-6)
    assert losses.repeated < COPIES_BELOW * losses.first


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def test_every_run_measures_it_and_the_command_measures_it_again(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(configure(f"run={run}", "trainer.max_steps=2"), [])
    measured = record(run)["measurements"]
    assert measured["copy_first_loss"] == pytest.approx(math.log(400), rel=0.1)
    assert measured["copy_repeated_loss"] == pytest.approx(measured["copy_first_loss"], rel=0.05)
    runs = load_results(tmp_path).runs
    assert runs["copies"].tolist() == [False]
    assert runs["copy_first_loss"].tolist() == [measured["copy_first_loss"]]
    older = record(run)
    del older["measurements"]["copy_first_loss"]
    (run / "record.json").write_text(json.dumps(older))
    assert load_results(tmp_path).runs["copies"].isna().all()
    capsys.readouterr()
    command.evaluate(EvalConfig(run=str(run), device="cpu", probe="copy"), [])
    assert record(run)["measurements"] == pytest.approx(measured, rel=1e-6)
    assert capsys.readouterr().out.endswith("on its first reading (100%): the run does not copy\n")
    command.evaluate(EvalConfig(run=str(run), device="cpu", probe="copy", split="test"), [])
    assert record(run)["measurements"] == pytest.approx(measured, rel=1e-6)


def test_a_probe_that_fails_fails_no_run(configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise DivergedError("repeated text: the loss is not finite")

    monkeypatch.setattr(training, "probe_copying", failing)
    train(configure(f"run={tmp_path}/run", "model=transformer", "trainer.max_steps=1"), [])
    found = record(tmp_path / "run")
    assert found["status"] == "finished"
    assert found["warnings"] == {"validation, repeated text": "repeated text: the loss is not finite"}
