"""Runs that ``trainer.max_steps`` ends before the end of their schedule: what they record and say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttt.config.errors import RunError
from ttt.config.schema import TrainConfig
from ttt.train import module
from ttt.train.start import train

Configure = Callable[..., TrainConfig]
COMMON = ("trainer.eval_test=false",)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def planned(folder: Path) -> tuple[int, int, float]:
    found = record(folder)
    return found["steps"], found["steps_planned"], found["training_flops"]


def test_a_run_is_recorded_and_reported_with_the_steps_of_its_whole_schedule(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(configure(f"run={run}", *COMMON, "trainer.max_steps=2"), [])
    steps, schedule, flops = planned(run)
    assert (steps, schedule) == (2, 12)
    captured = capsys.readouterr()
    assert f"training {run}: 2 of 12 steps of" in captured.err
    assert f"next: ttt-train run={run} goes on to 12 steps" in captured.out
    assert captured.out.strip().endswith("after 2 of 12 steps, stopped by trainer.max_steps")
    train(configure(f"run={run}", *COMMON, "trainer.max_steps=1"), [])
    line = capsys.readouterr().out
    assert "2 steps, more than trainer.max_steps=1 asks for (run=ANOTHER_FOLDER trains 1)" in line
    assert "after 2 of 12 steps" in line
    train(configure(f"run={run}", *COMMON, "ckpt=last"), [])
    assert "stopped" not in capsys.readouterr().out
    assert planned(run) == (12, 12, flops)


def test_asking_for_fewer_steps_than_an_interrupted_run_has_done_records_no_fewer(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    step = module.TrainingModule.training_step

    def failing(self: Any, *given: Any) -> Any:
        if self.trainer.global_step == 3:
            raise RunError("out of luck")
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(module.TrainingModule, "training_step", failing)
        with pytest.raises(RunError):
            train(configure(f"run={run}", *COMMON, "trainer.checkpoint_every=3"), [])
    train(configure(f"run={run}", *COMMON, "ckpt=last", "trainer.max_steps=2"), [])
    captured = capsys.readouterr()
    assert "3 steps are done, trainer.max_steps=2 asks for fewer; they are evaluated as they are" in captured.err
    assert planned(run)[:2] == (3, 12)
    assert captured.out.strip().endswith("after 3 of 12 steps, stopped by trainer.max_steps")
