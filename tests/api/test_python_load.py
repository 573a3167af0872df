"""``ttt.load``, ``ttt.inner_loss`` and ``ttt.load_runs`` on a tiny run."""

import shutil
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch

import ttt
from ttt.cli.export import export
from ttt.config.exchange import ExportConfig
from ttt.evaluate.run import load_run
from ttt.layers.observing import record_inner_loops
from ttt.results.record import RunFolder

make_run = run_path(str(Path(__file__).parents[1] / "plots" / "synthetic.py"))["make_run"]

ONE_LINE = r"\A[^\n]*\Z"

TEXT = "def main(é):\n    return 1"


@pytest.fixture(scope="session")
def run(trained: Path) -> Path:
    return trained / "runs" / "NAME"


def test_a_run_gives_its_model_and_tokenizer(run: Path) -> None:
    model, tokenizer = ttt.load(run, device="cpu")
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == torch.int64
    assert ids.shape[0] == 1
    assert tokenizer.decode(ids) == tokenizer.decode(ids[0].tolist()) == TEXT
    assert tokenizer.encode("").tolist() == [[tokenizer.end]]
    expected = load_run(RunFolder(run), torch.device("cpu")).model
    assert not model.training
    assert torch.equal(model(ids), expected(ids))


@pytest.mark.slow
@pytest.mark.parametrize("released", [False, True])
def test_an_export_gives_the_same(run: Path, tmp_path: Path, released: bool) -> None:
    export(ExportConfig(run=str(run), out=str(tmp_path / "out"), released=released), [])
    model, tokenizer = ttt.load(tmp_path / "out", device="cpu", kernel="dual")
    expected, _ = ttt.load(str(run), device="cpu", kernel="dual")
    ids = tokenizer.encode(TEXT)
    torch.testing.assert_close(model(ids), expected(ids), rtol=0, atol=1e-6)


def test_the_dtype_is_chosen(run: Path) -> None:
    model, tokenizer = ttt.load(run, "cpu", torch.float64)
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    assert model(tokenizer.encode(TEXT)).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"device": "tpu"}, "device=tpu: choose one of auto, cpu, cuda, mps"),
        ({"dtype": torch.int64}, "dtype=torch.int64: choose one of torch.float32"),
        ({"kernel": "cuda"}, "kernel.name=cuda: choose one of auto"),
        ({"folder": "nowhere"}, "nowhere: no such folder; give the folder of one run"),
    ],
    ids=str,
)
def test_an_argument_that_is_not_possible_is_named(run: Path, arguments: dict, line: str) -> None:
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        ttt.load(**{"folder": run, "device": "cpu"} | arguments)
    assert str(caught.value).startswith(line)


def test_a_folder_without_a_model_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"runs: is a folder of runs, such as NAME; give the folder of one run"):
        ttt.load(run.parent)
    with pytest.raises(ValueError, match="holds neither a run nor an exported model"):
        ttt.load(tmp_path)
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("*.ckpt"))
    with pytest.raises(ValueError, match="bare: has no checkpoint"):
        ttt.load(tmp_path / "bare")


@pytest.mark.parametrize("file", ["model.safetensors", "config.yaml", "tokenizer.json"])
def test_a_damaged_export_is_named(run: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "out"
    export(ExportConfig(run=str(run), out=str(out)), [])
    (out / file).write_text("{")
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        ttt.load(out, device="cpu")
    assert str(out) in str(caught.value)
    (out / file).unlink()
    with pytest.raises(ValueError, match=r"export|tokenizer"):
        ttt.load(out, device="cpu")


def test_the_trace_is_that_of_each_head(run: Path) -> None:
    model, tokenizer = ttt.load(run, device="cpu")
    ids = torch.cat([tokenizer.encode(TEXT), tokenizer.encode(TEXT).flip(1)])
    trace = ttt.inner_loss(model, ids)
    with record_inner_loops(model) as seen, torch.no_grad():
        model(ids)
    (observation,) = seen
    heads, T = 2, ids.shape[1]
    assert len(trace) == heads * T
    assert trace["position"].tolist() == [*range(1, T + 1)] * heads
    assert trace["layer"].unique().tolist() == [1]
    for name, factor in {"loss_before": 2 / 8, "loss_after": 2 / 8, "update_norm": 1}.items():
        expected = factor * getattr(observation, name).double().mean(0)
        np.testing.assert_allclose(trace[name].to_numpy().reshape(heads, T), expected, rtol=1e-6)
    one = ttt.inner_loss(model, ids[0])
    assert len(one) == len(trace)


def test_no_trace_is_possible_without_a_layer_or_tokens() -> None:
    with pytest.raises(ValueError, match="no TTT layer"):
        ttt.inner_loss(torch.nn.Linear(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    layer = ttt.TTTLinear(width=16, heads=2, kernel="dual")
    with pytest.raises(ValueError, match=r"ids have shape \[1, 0\]; give \[B, T\]"):
        ttt.inner_loss(layer, torch.zeros(1, 0, dtype=torch.int64))


def test_many_runs_are_one_table(tmp_path: Path) -> None:
    for seed, size in ((0, 4), (1, 4), (0, 16)):
        make_run(tmp_path, seed=seed, mini_batch_size=size, steps=2, perplexity=30 + size)
    table = ttt.load_runs(tmp_path)
    assert len(table) == 3
    assert sorted(table["mini_batch_size"]) == [4, 4, 16]
    assert table["validation_perplexity"].notna().all()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*broken"):
        assert len(ttt.load_runs(tmp_path)) == 3
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        ttt.load_runs(tmp_path / "nowhere")


def test_a_key_that_varies_is_a_column_of_its_kind() -> None:
    table = ttt.load_runs(Path(__file__).parents[2] / "results" / "laptop")
    eta = table["model.eta_base"]
    assert eta.dtype.kind == "f"
    assert set(eta[table["model"] == "ttt_linear"]) == {0.1, 0.3, 1.0, 3.0, 10.0}
    assert eta[table["model"] == "mamba"].isna().all()
    assert table["model.norm"].dtype == "boolean"
    assert "trainer.device" not in table
    assert "model.name" not in table, "it is the column model"
