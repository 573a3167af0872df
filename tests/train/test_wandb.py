"""Weights & Biases, with a stand-in for its logger: one run has one id, and the configuration chooses where it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from ttt.config.identity import run_id
from ttt.config.schema import TrainConfig
from ttt.train import loggers
from ttt.train.start import train

Configure = Callable[..., TrainConfig]


class Wandb(DummyLogger):
    """A stand-in for Lightning's logger that keeps its arguments, and counts the runs that were ended."""

    made: ClassVar[list[dict[str, Any]]] = []
    finished = 0

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        del arguments["save_dir"]
        self.made.append(arguments)

    @property
    def experiment(self) -> Any:
        return self

    def finish(self) -> None:
        type(self).finished += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Install the stand-in; return the arguments of every logger that is made."""
    monkeypatch.setattr(loggers, "WandbLogger", Wandb)
    monkeypatch.setattr(loggers, "find_spec", lambda _: True)
    monkeypatch.setattr(Wandb, "made", [])
    monkeypatch.setattr(Wandb, "finished", 0)
    return Wandb.made


@pytest.mark.slow
def test_a_run_keeps_its_id_until_the_user_starts_over(
    configure: Configure, made: list[dict[str, Any]], tmp_path: Path
) -> None:
    common = (f"run={tmp_path}/run", "trainer.logger=wandb")
    train(configure(*common, "trainer.max_steps=1"), [], sweep="books")
    train(configure(*common, "trainer.max_steps=2", "ckpt=last"), [])
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.unlink()
    record = tmp_path / "run/record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "interrupted"}))
    train(configure(*common, "trainer.max_steps=1", "ckpt=last"), [])
    ids = [arguments["id"] for arguments in made]
    assert len(ids) == 3
    assert len(set(ids)) == 1, "resumed, and started again for want of a checkpoint"
    train(configure(*common, "trainer.max_steps=1", "overwrite=true"), [])
    assert made[-1]["id"] not in ids
    assert json.loads(record.read_text())["wandb_id"] == made[-1]["id"]
    assert Wandb.finished == 4
    assert made[0]["group"] == "books"


def test_the_configuration_chooses_where_the_run_is(made: list[dict[str, Any]], configure: Configure) -> None:
    chosen = ("project=theirs", "entity=group", "group=rates", "tags=[a,b]")
    config = configure(*(f"trainer.wandb.{word}" for word in chosen), "trainer.logger=wandb")
    assert run_id(config) == run_id(configure()), "it is the same run"
    content: Any = {"run_id": "some", "sweep": "books", "wandb_id": "1"}
    loggers.make_loggers(config.trainer, content, Path("x"), 0)
    loggers.make_loggers(configure("trainer.logger=wandb").trainer, content | {"sweep": None}, Path("x"), 0)
    common = {"name": "some", "id": "1", "resume": "allow"}
    assert made == [
        {"project": "theirs", "entity": "group", "group": "rates", "tags": ["a", "b"], **common},
        {"project": "ttt-suite", "entity": None, "group": None, "tags": None, **common},
    ]
