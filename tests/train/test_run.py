"""Runs from configuration to record: their files, how they end, and how they resume."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment

from ttt.cli.data import prepare
from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.train import train
from ttt.config.errors import RunError, UserError
from ttt.config.exchange import ExportConfig
from ttt.config.layers import SHIPPED
from ttt.config.preparing import PrepareConfig
from ttt.config.schema import EvalConfig, TrainConfig
from ttt.evaluate import run as evaluation
from ttt.layers.registry import LayerSpec, build_layer
from ttt.results.checkpoints import write_digest
from ttt.results.lock import locked
from ttt.train.module import TrainingModule
from ttt.train.run import _built

Configure = Callable[..., TrainConfig]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"step-{step:08d}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_writes_all_files(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.checkpoint_every=5"), ["seed=0"])
    run = tmp_path / "run"
    written = record(run)
    assert written["status"] == "finished"
    assert (written["steps"], written["tokens"], written["tokens_per_step"]) == (12, 12 * 256, 256)
    assert written["config"] == yaml.safe_load((run / "config.yaml").read_text())
    assert written["overrides"] == ["seed=0"]
    assert len(written["data"]["digest"]) == 64
    assert {"python", "torch", "lightning", "ttt-suite"} <= written["versions"].keys()
    assert written["parameters"]["embedding"] == written["data"]["vocab_size"] * 16
    result = written["results"]["validation"]
    assert result["sequences"] == 8
    assert 0 <= result["accuracy"] <= 1
    # A token of BPE stands for one byte at least.
    assert 0 < result["bits_per_byte"] <= result["loss"] / math.log(2) * 1.02
    assert written["measurements"]["peak_memory"] > 2**20
    kept = ["step-00000010.ckpt", "step-00000010.ckpt.sha256", "step-00000012.ckpt", "step-00000012.ckpt.sha256"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == kept
    rows = pd.read_parquet(run / "metrics.parquet")
    training = rows[(rows.split == "train") & (rows.metric == "loss")]
    assert training.step.tolist() == list(range(1, 13))
    by_index = rows[(rows.split == "validation") & (rows.metric == "loss") & rows.position.notna()]
    assert by_index.position.tolist() == list(range(1, 65))
    assert (run / "logs" / "csv" / "metrics.csv").is_file()


@pytest.mark.slow
def test_equal_runs_leave_equal_metrics_and_weights(configure: Configure, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(configure(f"run={tmp_path}/{name}", "model=ttt_mlp"), [])
    assert (tmp_path / "a/metrics.parquet").read_bytes() == (tmp_path / "b/metrics.parquet").read_bytes()
    theirs = weights(tmp_path / "b", 12)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path / "a", 12).items())


def test_another_seed_is_another_run(configure: Configure, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(configure(f"runs={tmp_path}", f"seed={seed}", "trainer.max_steps=1"), [])
    first, second = sorted(tmp_path.iterdir())
    assert first.name != second.name
    assert (first / "metrics.parquet").read_bytes() != (second / "metrics.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ttt_linear", "ttt_mlp", "linear_attention", "transformer", "mamba"])
@pytest.mark.parametrize("device_batch", [4, 1], ids=["whole", "accumulated"])
def test_resumed_is_uninterrupted(configure: Configure, tmp_path: Path, model: str, device_batch: int) -> None:
    common = [f"model={model}", f"trainer.device_batch={device_batch}", "trainer.checkpoint_every=3"]
    train(configure(f"run={tmp_path}/whole", *common), [])
    train(configure(f"run={tmp_path}/parts", *common, "trainer.max_steps=7", "ckpt=last"), [])
    assert record(tmp_path / "parts")["steps"] == 7
    train(configure(f"run={tmp_path}/parts", *common, "ckpt=last"), [])
    assert record(tmp_path / "parts")["steps"] == 12
    theirs = weights(tmp_path / "whole", 12)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path / "parts", 12).items())
    assert (tmp_path / "parts/metrics.parquet").read_bytes() == (tmp_path / "whole/metrics.parquet").read_bytes()


@pytest.mark.slow
def test_accumulation_is_the_whole_batch(configure: Configure, tmp_path: Path) -> None:
    for device_batch in (4, 2, 1):
        train(configure(f"run={tmp_path}/{device_batch}", f"trainer.device_batch={device_batch}"), [])
    for device_batch in (2, 1):
        for name, value in weights(tmp_path / "4", 12).items():
            torch.testing.assert_close(weights(tmp_path / str(device_batch), 12)[name], value, rtol=1e-3, atol=1e-4)


def test_a_finished_run_is_unchanged(configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(f"run={tmp_path}/run", "trainer.max_steps=2")
    train(config, [])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    train(config, [])
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    config.overwrite = True
    train(config, [])
    assert record(tmp_path / "run")["timing"]["started"]
    assert (tmp_path / "run/record.json").stat().st_mtime_ns != before[tmp_path / "run/record.json"]


def test_earlier_work_is_not_overwritten_unasked(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=2"), [])
    with pytest.raises(UserError, match=r"contains 2 steps of this run .* ckpt=last resumes it"):
        train(configure(f"run={tmp_path}/run", "trainer.max_steps=3"), [])
    with pytest.raises(UserError, match=r"belongs to another configuration \(seed=5, not 0\)"):
        train(configure(f"run={tmp_path}/run", "seed=5"), [])
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="contains other files and no run"):
        train(configure(f"run={other}", "overwrite=true"), [])
    assert (other / "thesis.tex").read_text() == "mine"


@pytest.mark.slow
def test_a_loss_that_diverges_stops_the_run(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def poisoned(self: TrainingModule, windows: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step == 6:
            with torch.no_grad():
                self.model.embedding.weight.fill_(float("nan"))
        return step(self, windows, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    with pytest.raises(RunError, match=r"the loss became nan at step 6; the last good checkpoint is .*step-00000004"):
        train(configure(f"run={tmp_path}/run", "trainer.checkpoint_every=2"), [])
    written = record(tmp_path / "run")
    assert (written["status"], written["last_checkpoint"]) == ("diverged", "step-00000004.ckpt")
    assert "the loss became nan at step 6" in written["error"]
    losses = pd.read_parquet(tmp_path / "run/metrics.parquet").query("metric == 'loss'")
    assert losses.step.max() == 6
    monkeypatch.undo()
    train(configure(f"run={tmp_path}/run", "trainer.checkpoint_every=2", "ckpt=last"), [])
    assert record(tmp_path / "run")["status"] == "finished", "it resumes from the last good checkpoint"


def test_a_perplexity_that_is_too_large_for_a_float_is_a_divergence(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluation.evaluate_split
    monkeypatch.setattr(evaluation, "evaluate_split", lambda *given: replace(evaluate(*given), loss=1000.0))
    with pytest.raises(RunError, match="the validation loss is 1000 nats/token, and its perplexity infinite"):
        train(configure(f"run={tmp_path}/run", "trainer.max_steps=1"), [])
    written = json.loads((tmp_path / "run/record.json").read_text(), parse_constant=pytest.fail)
    assert written["status"] == "diverged"
    assert (written["results"]["validation"]["loss"], written["results"]["validation"]["perplexity"]) == (1000.0, None)


def test_a_step_is_logged_with_the_learning_rate_that_it_used(configure: Configure, tmp_path: Path) -> None:
    config = configure(f"run={tmp_path}/run", "recipe.warmup=0.5")
    train(config, [])
    rates = pd.read_parquet(tmp_path / "run/metrics.parquet").query("metric == 'learning_rate'").set_index("step")
    peak = config.recipe.learning_rate
    assert rates["value"][1] == pytest.approx(peak / 6)
    assert rates["value"][6] == pytest.approx(peak)
    assert rates["value"][12] == pytest.approx(config.recipe.final_learning_rate)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_an_interrupted_run_records_it_and_resumes(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    common = [f"run={tmp_path}/run", "trainer.checkpoint_every=4"]
    with monkeypatch.context() as patch:
        step = TrainingModule.training_step

        def killed(self: TrainingModule, windows: torch.Tensor, batch_idx: int) -> torch.Tensor:
            if self.global_step == 5:
                os.kill(os.getpid(), number)
            return step(self, windows, batch_idx)

        patch.setattr(TrainingModule, "training_step", killed)
        with pytest.raises(RunError, match=rf"stopped by {number.name} at step 6; .* resumes from step-00000006.ckpt"):
            train(configure(*common), [])
    assert record(tmp_path / "run")["status"] == "interrupted"
    assert f"{number.name} at step 6" in record(tmp_path / "run")["error"]
    train(configure(*common, "ckpt=last"), [])
    train(configure(f"run={tmp_path}/whole", "trainer.checkpoint_every=4"), [])
    assert (tmp_path / "run/metrics.parquet").read_bytes() == (tmp_path / "whole/metrics.parquet").read_bytes()
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["error"]) == ("finished", None)


def test_lightnings_own_checkpoint_of_a_job_is_not_used(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job, Lightning silently resumes from any such checkpoint in its folder."""
    common = [f"run={tmp_path}/run", "trainer.max_steps=2"]
    train(configure(*common), [])
    metrics = (tmp_path / "run/metrics.parquet").read_bytes()
    for folder in (tmp_path / "run", tmp_path / "run/checkpoints"):
        shutil.copy(tmp_path / "run/checkpoints/step-00000002.ckpt", folder / "hpc_ckpt_1.ckpt")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "a job")
    assert SLURMEnvironment.detect()
    train(configure(*common, "overwrite=true"), [])
    assert (tmp_path / "run/metrics.parquet").read_bytes() == metrics


def test_the_record_has_the_progress_of_a_run(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between two checkpoints; and it never names a missing checkpoint."""
    monkeypatch.setattr("ttt.results.run_record.SECONDS_BETWEEN_RECORDS", 0.0)
    step, records = TrainingModule.training_step, []

    def telling(self: TrainingModule, windows: torch.Tensor, batch_idx: int) -> torch.Tensor:
        records.append(record(tmp_path / "run"))
        return step(self, windows, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", telling)
    train(configure(f"run={tmp_path}/run", "trainer.checkpoint_every=8"), [])
    assert [(now["status"], now["steps"], now["tokens"]) for now in records] == [
        ("running", done, done * 256) for done in range(12)
    ]
    # The first step compiles kernels: its time says nothing about the time left.
    assert [now["timing"]["tokens_per_second"] for now in records[:2]] == [None, None]
    assert all(now["timing"]["tokens_per_second"] > 0 for now in records[2:])
    assert {now["last_checkpoint"] for now in records[:8]} == {None}
    assert {now["last_checkpoint"] for now in records[8:]} == {"step-00000008.ckpt"}


def test_a_folder_is_written_by_one_process(configure: Configure, tmp_path: Path) -> None:
    """A second process is refused and changes nothing; reading is allowed."""
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=1"), [])
    with locked(tmp_path / "run"):
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
        with pytest.raises(UserError, match=r"run: is being written by process .*; wait for its end, or stop it"):
            train(configure(f"run={tmp_path}/run", "overwrite=true"), [])
        evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
        export(ExportConfig(run=f"{tmp_path}/run", out=f"{tmp_path}/out"), [])
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    evaluate(EvalConfig(run=f"{tmp_path}/run"), [])


def test_ckpt_last_starts_if_there_is_no_checkpoint(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "ckpt=last", "trainer.max_steps=1"), [])
    assert record(tmp_path / "run")["status"] == "finished"


def test_a_run_resumes_only_with_the_same_batches(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=2"), [])
    with pytest.raises(UserError, match=r"trainer.device_batch=1: the run began with 4 \(1 times a step"):
        train(configure(f"run={tmp_path}/run", "trainer.device_batch=1", "ckpt=last"), [])
    assert record(tmp_path / "run")["status"] == "finished"
    train(configure(f"run={tmp_path}/run", "trainer.device_batch=4", "ckpt=last"), [])
    assert record(tmp_path / "run")["steps"] == 12


def test_a_context_longer_than_any_document_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ctx=1000000: no train document .* the longest has \d+"):
        train(configure(f"runs={tmp_path}/runs", "ctx.length=1000000"), [])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["data.name", "size.name", "model.name", "backbone.name"])
def test_a_name_that_becomes_a_folder_has_no_separator(configure: Configure, tmp_path: Path, key: str) -> None:
    """Nothing is written outside the folders of runs and of prepared data."""
    config = configure(f"runs={tmp_path}/some/runs", f"data.cache_dir={tmp_path}/some/cache")
    group, _, name = key.partition(".")
    setattr(getattr(config, group), name, "../../escaped")
    line = rf"{key}=../../escaped: is the name of a folder; give one without /"
    with pytest.raises(UserError, match=line):
        train(config, [])
    if group == "data":
        with pytest.raises(UserError, match=line):
            prepare(PrepareConfig(config.data), [])
    assert not list(tmp_path.iterdir())


def test_evaluation_can_be_repeated(configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=3"), [])
    before = record(tmp_path / "run")["results"]
    size, following, last = capsys.readouterr().out.splitlines()[-3:]
    total = record(tmp_path / "run")["parameters"]["total"]
    assert re.fullmatch(rf"{total:,} parameters, 768 tokens in [\d.,]+ s \([\d,]+ tokens/s\)", size)
    assert following.startswith(f"next: ttt-train run={tmp_path}/run goes on to 12 steps; ")
    assert last.startswith(f"{tmp_path}/run: validation perplexity {before['validation']['perplexity']:.2f} ")
    assert last.endswith("after 3 of 12 steps, stopped by trainer.max_steps")
    assert set(before) == {"validation", "test"}
    tables = [tmp_path / "run" / name for name in ("metrics.parquet", "documents.parquet")]
    contents = [table.read_bytes() for table in tables]
    evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
    assert f"validation perplexity {before['validation']['perplexity']:.2f}" in capsys.readouterr().out
    assert record(tmp_path / "run")["results"] == before
    assert [table.read_bytes() for table in tables] == contents
    evaluate(EvalConfig(run=f"{tmp_path}/run", split="test", eval_tokens=64), [])
    assert record(tmp_path / "run")["results"]["test"]["tokens"] == 64


def test_evaluating_a_folder_without_a_run_is_refused(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record\.json: cannot be read"):
        evaluate(EvalConfig(run=str(tmp_path)), [])
    with pytest.raises(UserError, match="split=train: choose one of validation, test"):
        evaluate(EvalConfig(run=str(tmp_path), split="train"), [])
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=1"), [])
    checkpoint = tmp_path / "run/checkpoints/step-00000001.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"run/checkpoints: every checkpoint is damaged"):
        evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
    write_digest(checkpoint, hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"step-00000001.ckpt: not a checkpoint of this model"):
        evaluate(EvalConfig(run=f"{tmp_path}/run"), [])


def test_other_data_than_the_runs_is_refused(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=1"), [])
    changed = record(tmp_path / "run")
    changed["data"]["digest"] = "0" * 64
    (tmp_path / "run/record.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="was trained on data with digest 000000000000"):
        evaluate(EvalConfig(run=f"{tmp_path}/run"), [])
    with pytest.raises(UserError, match="was trained on data with digest 000000000000"):
        train(configure(f"run={tmp_path}/run", "ckpt=last"), [])


def test_tensorboard_can_be_chosen(configure: Configure, tmp_path: Path) -> None:
    train(configure(f"run={tmp_path}/run", "trainer.max_steps=1", "trainer.logger=tensorboard"), [])
    assert list((tmp_path / "run/logs/tensorboard").glob("events.*"))


def test_a_logger_that_is_not_installed_is_named(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttt.train.loggers.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"trainer.logger=wandb: is not installed; pip install wandb"):
        train(configure(f"run={tmp_path}/run", "trainer.logger=wandb"), [])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_label_goes_into_the_record(configure: Configure, tmp_path: Path) -> None:
    label = {"method": "TTT-Linear", "departures": {}}
    common = (f"run={tmp_path}/run", "trainer.checkpoint_every=1")
    train(configure(*common, "trainer.max_steps=1"), [], label=lambda: label)
    assert record(tmp_path / "run")["label"] == label
    train(configure(*common, "trainer.max_steps=2", "ckpt=last"), [])
    assert record(tmp_path / "run")["label"] == label, "a resumed run keeps it"


@pytest.mark.parametrize(
    ("model", "kernel", "device", "named"),
    [
        ("mamba", "auto", "cpu", "cpu"),
        ("mamba", "cpu", "cpu", "cpu"),
        ("mamba", "dual", "cpu", None),
        ("mamba", "auto", "cuda", None),
        ("ttt_linear", "auto", "cpu", "cpu"),
        ("ttt_linear", "auto", "cuda", "triton"),
        ("transformer", "auto", "cpu", None),
    ],
)
def test_the_kernel_that_the_first_step_compiles_is_named(
    model: str, kernel: str, device: str, named: str | None
) -> None:
    values = {"inner_model": "linear"} if model == "ttt_linear" else {}
    layer = build_layer(SHIPPED[model](name=model, **values), LayerSpec(32, heads=2))
    config = SimpleNamespace(kernel=SimpleNamespace(name=kernel))
    hardware = SimpleNamespace(device=torch.device(device))
    prepared: Any = SimpleNamespace(plan=SimpleNamespace(config=config), hardware=hardware, model=layer)
    assert _built(prepared) == named
