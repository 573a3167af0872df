"""The evaluation at the end of a training: of validation and test, with losses by document."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from written_texts import write_texts

from ttt.analysis.store import load_results
from ttt.cli.eval import evaluate
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.identity import run_id
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.launch.collect import copy_results
from ttt.launch.plan import PlannedRun
from ttt.launch.status import RunStatus

Configure = Callable[..., TrainConfig]


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def test_a_training_ends_with_losses_on_validation_and_test(configure: Configure, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(configure(f"run={run}", "trainer.max_steps=1"), [])
    documents = pd.read_parquet(run / "documents.parquet")
    sums = documents.groupby("split")[["loss", "tokens"]].sum()
    for split in ("validation", "test"):
        result = record(run)["results"][split]
        assert sums["tokens"][split] == result["tokens"]
        assert sums["loss"][split] / sums["tokens"][split] == pytest.approx(result["loss"], rel=1e-9)
    assert "warnings" not in record(run)
    planned = PlannedRun("run", str(run), (), None, 1, 256)
    copy_results([RunStatus(planned, "finished", None, 1, None)], tmp_path / "out")
    assert len(load_results(tmp_path / "out").documents) == len(documents)
    assert documents.groupby("split")["windows"].nunique().tolist() == [1, 1]
    # The same windows have the same digest, others have another one.
    evaluate(EvalConfig(run=str(run), split="test", device="cpu", eval_tokens=64), [])
    again = pd.read_parquet(run / "documents.parquet")
    assert set(again["windows"]) & set(documents["windows"]) == set(documents.query("split == 'validation'")["windows"])
    assert again.query("split == 'test'")["tokens"].sum() == 64


def test_the_test_split_can_be_left_out(configure: Configure, tmp_path: Path) -> None:
    with_test, without = configure(), configure("trainer.eval_test=false")
    assert run_id(with_test) == run_id(without)
    without = configure(f"run={tmp_path}/run", "trainer.eval_test=false", "trainer.max_steps=1")
    train(without, [])
    assert set(record(tmp_path / "run")["results"]) == {"validation"}


def test_a_test_split_without_a_long_document_is_a_line_of_the_record(configure: Configure, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", seed=0)
    data = ["data=local", f"data.path={tmp_path}/texts", "data.validation_fraction=0.3", "data.test_fraction=1e-6"]
    train(configure(*data, f"run={tmp_path}/run", "trainer.max_steps=1"), [])
    written = record(tmp_path / "run")
    assert written["status"] == "finished"
    assert set(written["results"]) == {"validation"}
    assert "there is no test document" in written["warnings"]["test"]


def test_damaged_losses_by_document_are_named_before_the_evaluation(
    run_of_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_of_texts / "documents.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("ttt.evaluate.run.evaluate_split", None)
    monkeypatch.chdir(run_of_texts.parents[1])
    before = (run_of_texts / "record.json").read_bytes()
    with pytest.raises(UserError, match=r"documents\.parquet: not a table of losses by document"):
        evaluate(EvalConfig(run=str(run_of_texts), device="cpu"), [])
    assert (run_of_texts / "record.json").read_bytes() == before
