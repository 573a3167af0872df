"""The probe compared with its observations, and the output of ``ttt-eval probe=inner_loss``."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ttt.cli import eval as command
from ttt.cli.errors import exit_with_one_line
from ttt.cli.train import train
from ttt.config.errors import RunError
from ttt.config.layers import TTTConfig
from ttt.config.schema import BackboneConfig, EvalConfig, KernelConfig, SizeConfig, TrainConfig
from ttt.data.windows import Windows
from ttt.evaluate.generate import Sampling, continuation
from ttt.evaluate.growth import unbounded_growth
from ttt.evaluate.inner_loss import measure_inner_losses
from ttt.evaluate.run import load_run
from ttt.layers.observing import Observation, record_inner_loops
from ttt.layers.state import READ_CHUNK
from ttt.models.build import build_model
from ttt.results.checkpoints import write_digest
from ttt.results.inner_loss import per_dimension, read_inner_loss
from ttt.results.record import RunFolder

Configure = Callable[..., TrainConfig]


@pytest.mark.slow
@pytest.mark.parametrize("device_tokens", [1, 2 * READ_CHUNK, 100 * READ_CHUNK])
@torch.no_grad()
def test_chunks_and_batches_give_the_mean_over_whole_sequences(device_tokens: int) -> None:
    torch.manual_seed(0)
    size = SizeConfig(name="tiny", width=8, blocks=2, heads=2, mlp_hidden=8, init_std=0.3)
    layer = TTTConfig(name="ttt_linear", inner_model="linear", mini_batch_size=48)
    model = build_model(layer, size, BackboneConfig("mamba"), KernelConfig("dual"), 20)
    ctx = READ_CHUNK + 90
    tokens = np.random.default_rng(0).integers(0, 20, 3 * (ctx + 1)).astype(np.uint16)
    windows = Windows(tokens, np.arange(3) * (ctx + 1), ctx)
    losses = measure_inner_losses(model, windows, torch.device("cpu"), device_tokens, show_progress=False)
    assert (losses.sequences, losses.lost) == (3, None)
    with record_inner_loops(model) as seen:
        model(windows.batch(range(3))[:, :-1])
    for mine, whole in zip(losses.layers, seen, strict=True):
        for value, expected in zip(mine, whole, strict=True):
            torch.testing.assert_close(value, expected.double().mean(0), rtol=1e-4, atol=1e-5)


def observation(before: list[list[float]], initial: float = 1.0) -> Observation:
    """Return an observation with these losses before the update, heads by tokens."""
    loss = torch.tensor(before, dtype=torch.float64)
    return Observation(torch.full_like(loss, initial), loss, loss, loss, loss)


def test_growth_is_tenfold_and_above_the_loss_without_learning() -> None:
    steady, grown = [1.0] * 8, [1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 30.0, 10.0]
    assert unbounded_growth([observation([steady, [*steady[:6], 9.0, 9.0]])]) == []
    assert unbounded_growth([observation([grown], initial=25.0)]) == []
    (growth,) = unbounded_growth([observation([steady]), observation([steady, grown])])
    assert growth.inner_loop == "layer 2, head 1"
    assert str(growth) == (
        "the inner loss grew from 1 (tokens 1 to 2) to 20 (tokens 7 to 8, where W_0 has 1); lower model.eta_base"
    )


def test_non_finite_growth_is_named_where_it_begins() -> None:
    steady, lost = [1.0] * 4, [1.0, 1.0, 1.0, float("nan")]
    layers = [observation([steady, steady]), observation([steady, lost]), observation([lost, lost])]
    assert [growth.inner_loop for growth in unbounded_growth(layers)] == ["layer 2, head 1"]
    assert unbounded_growth([observation([[1.0]])]) == []


@pytest.fixture
def run(configure: Configure, tmp_path: Path) -> Path:
    """Train a run of two layers for two steps."""
    train(configure(f"run={tmp_path}/run", "size.blocks=2", "trainer.max_steps=2"), [])
    return tmp_path / "run"


def evaluate(run: Path, **settings: Any) -> int:
    """Run ``ttt-eval`` and return its exit code."""
    try:
        with exit_with_one_line():
            command.evaluate(EvalConfig(run=str(run), device="cpu", **settings), [])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


@pytest.mark.slow
def test_the_command_writes_only_its_own_table(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (run / name).read_bytes() for name in ("metrics.parquet", "record.json", "config.yaml")}
    capsys.readouterr()
    assert evaluate(run, probe="inner_loss", eval_tokens=256) == 0
    first, header, *layers, last = capsys.readouterr().out.splitlines()
    assert "4 windows of validation documents, at step 2" in first
    assert header.split("  ")[0] == "layer"
    assert header.endswith("gain 1-16  gain 49-64")
    assert [line.split()[0] for line in layers] == ["1", "2"]
    assert last == f"{run}/inner_loss.parquet"
    assert {name: (run / name).read_bytes() for name in before} == before
    rows = read_inner_loss(run / "inner_loss.parquet").to_pandas()
    assert rows.groupby("layer")["position"].agg(list).tolist() == [list(range(1, 65))] * 2
    assert set(rows["sequences"]) == {4}
    # The file has the layer's own loss, the output the error per dimension.
    shown = rows.loc[rows["layer"] == 1, "loss_before"].mean() * per_dimension(record(run)["config"])
    assert shown == pytest.approx(float(layers[0].split()[2]), rel=1e-3)
    probed = (run / "inner_loss.parquet").read_bytes()
    assert evaluate(run, probe="inner_loss", eval_tokens=256) == 0
    assert (run / "inner_loss.parquet").read_bytes() == probed
    monkeypatch.setattr(command, "MOST_PROBED", 128)
    assert evaluate(run, probe="inner_loss", split="test") == 0
    rows = read_inner_loss(run / "inner_loss.parquet").to_pandas()
    assert rows.groupby("split")["sequences"].max().to_dict() == {"validation": 4, "test": 2}


@pytest.mark.slow
def test_a_new_run_in_the_folder_leaves_no_former_probe(run: Path, configure: Configure) -> None:
    assert evaluate(run, probe="inner_loss") == 0
    probes = [run / "inner_loss.parquet", run / "context_gain.parquet"]
    probes[1].write_bytes(probes[0].read_bytes())
    train(configure(f"run={run}", "size.blocks=2", "trainer.max_steps=1", "overwrite=true"), [])
    assert not any(path.exists() for path in probes)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["probe=outer_loss"], "probe=outer_loss: choose one of inner_loss, context_gain, copy, needle, or null"),
        (["probe=inner_loss", "split=train"], "split=train: choose one of validation, test, all, or null"),
        (["probe=inner_loss", "eval_tokens=0"], "eval_tokens=0: must be at least 1, or null"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["ttt-eval", f"run={tmp_path}", *arguments])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_run_without_inner_loops_is_refused(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(f"run={tmp_path}/run", "model=transformer", "trainer.max_steps=1"), [])
    capsys.readouterr()
    assert evaluate(tmp_path / "run", probe="inner_loss") == 2
    expected = f"error: probe=inner_loss: {tmp_path}/run has no inner loop: its model is transformer"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert not (tmp_path / "run/inner_loss.parquet").exists()


@pytest.mark.slow
def test_a_diverged_model_names_the_inner_loop(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints/step-00000002.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (name,) = (name for name in checkpoint["state_dict"] if "blocks.1" in name and name.endswith("W_init.W1"))
    checkpoint["state_dict"][name][1] = 1e38
    torch.save(checkpoint, path)
    write_digest(path, hashlib.sha256(path.read_bytes()).hexdigest())
    metrics = (run / "metrics.parquet").read_bytes()
    capsys.readouterr()
    culprit = "the inner loop of layer 2, head 1 diverged in mini-batch 1 (tokens 1 to 16)"
    assert evaluate(run) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: perplexity: the loss is not finite: {culprit}"
    assert (run / "metrics.parquet").read_bytes() == metrics
    assert evaluate(run, probe="inner_loss") == 1
    *_, warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: validation, layer 2, head 1: at step 2 the inner loss grew from ")
    assert error == f"error: {run}: the inner losses are not finite: {culprit}"
    with pytest.raises(RunError, match=re.escape(f"the logits are not finite: {culprit.replace('1 to 16', '1 to 3')}")):
        next(continuation(load_run(RunFolder(run), torch.device("cpu"), False).model, [1, 2, 3], Sampling(0, None, 0)))
    assert [f"{subject}: {text}" for subject, text in record(run)["warnings"].items()] == [
        warning.removeprefix("warning: ")
    ]
    assert record(run)["status"] == "finished"
