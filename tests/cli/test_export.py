"""The files of ``ttt-export`` reproduce the run's logits, also under the released names."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

from ttt.cli import export as command
from ttt.cli.eval import evaluate
from ttt.cli.export import export
from ttt.cli.generate import generate
from ttt.cli.train import train
from ttt.config.errors import UserError
from ttt.config.exchange import ExportConfig
from ttt.config.generation import GenerateConfig
from ttt.config.plain import from_plain
from ttt.config.schema import DataConfig, EvalConfig, KernelConfig, TrainConfig
from ttt.evaluate.run import load_run
from ttt.kernels import dispatch
from ttt.layers.registry import layer_type
from ttt.models.build import build_model
from ttt.models.released import from_released
from ttt.results.record import RunFolder

Configure = Callable[..., TrainConfig]

COMPILED = ("kernel=cpu", "size.width=32")
"""Overrides of a tiny run with the compiled kernel, which needs a head width of 16."""


def trained(configure: Configure, folder: Path, *overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Train two steps in ``folder``; return token ids and the logits of the run's model."""
    train(configure(f"run={folder}", "trainer.max_steps=2", *overrides), [])
    model = load_run(RunFolder(folder), torch.device("cpu")).model
    ids = torch.randint(model.embedding.num_embeddings, (2, 40), generator=torch.Generator().manual_seed(0))
    return ids, model(ids)


@pytest.mark.parametrize("model", ["ttt_linear", "transformer", "mamba"])
def test_weights_and_configuration_give_the_model(configure: Configure, tmp_path: Path, model: str) -> None:
    ids, logits = trained(configure, tmp_path / "run", f"model={model}")
    export(ExportConfig(run=f"{tmp_path}/run", out=f"{tmp_path}/out"), [])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "tokenizer.json",
    }
    state = load_file(tmp_path / "out/model.safetensors")
    plain = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    config = from_plain(plain, layer_type(plain["model"]["name"]).schema, DataConfig)
    again = build_model(config.model, config.size, config.backbone, config.kernel, len(state["embedding.weight"]))
    again.load_state_dict(state)
    assert torch.equal(again(ids), logits)


@pytest.mark.slow
@pytest.mark.parametrize("steps", ["recipe.steps=2", "recipe.steps=1000"], ids=["warmed up", "warming up"])
@pytest.mark.parametrize(
    "overrides",
    [["model=ttt_linear", "model.conv_kernel=2"], ["model=ttt_mlp"], ["model=ttt_mlp", "backbone=transformer"]],
    ids=" ".join,
)
def test_the_released_names_give_the_same_logits(
    configure: Configure, tmp_path: Path, overrides: list[str], steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, logits = trained(configure, tmp_path / "run", steps, *overrides)
    arguments = [f"run={tmp_path}/run", f"out={tmp_path}/out", "--released"]
    monkeypatch.setattr(sys, "argv", ["ttt-export", *arguments])
    GlobalHydra.instance().clear()
    command.main()
    state = load_file(tmp_path / "out/model.safetensors")
    assert "model.layers.0.seq_modeling_block.learnable_ttt_lr_weight" in state
    again = from_released(state, json.loads((tmp_path / "out/released.json").read_text()))
    torch.testing.assert_close(again(ids), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model=transformer"], "model=transformer: the released code has TTT-Linear and TTT-MLP only"),
        (["model.learnable_eta=false", "model.token_scale=none"], "model.learnable_eta=False, not True"),
        (["model.hidden=[2]", "model=ttt_mlp"], r"model.hidden=\[2\], not \[4\]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_released_code_lacks_is_named(
    configure: Configure, tmp_path: Path, overrides: list[str], line: str
) -> None:
    trained(configure, tmp_path / "run", *overrides)
    with pytest.raises(UserError, match=line):
        export(ExportConfig(run=f"{tmp_path}/run", out=f"{tmp_path}/out", released=True), [])
    assert not (tmp_path / "out").exists()


def test_other_files_stay(configure: Configure, tmp_path: Path) -> None:
    trained(configure, tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    config = ExportConfig(run=f"{tmp_path}/run", out=str(out))
    with pytest.raises(UserError, match=r"out: contains other files; choose a new folder, or overwrite=true"):
        export(config, [])
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    config.overwrite = True
    export(config, [])
    assert (out / "thesis.tex").read_text() == "mine"
    with pytest.raises(UserError, match=r"thesis.tex: contains other files"):
        export(ExportConfig(run=f"{tmp_path}/run", out=f"{out}/thesis.tex", overwrite=True), [])
    with pytest.raises(UserError, match=r"model.safetensors: cannot be written"):
        export(ExportConfig(run=f"{tmp_path}/run", out=f"{out}/thesis.tex/below"), [])
    with pytest.raises(UserError, match=r"nowhere/record.json: cannot be read"):
        export(ExportConfig(run=f"{tmp_path}/nowhere", out=f"{tmp_path}/new"), [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("kernel", "exported"), [(None, "auto"), ("dual", "dual"), ("triton", "triton")])
def test_the_exported_configuration_has_a_kernel_of_every_machine(
    configure: Configure, tmp_path: Path, kernel: str | None, exported: str
) -> None:
    trained(configure, tmp_path / "run", *COMPILED)
    chosen = None if kernel is None else KernelConfig(kernel)
    export(ExportConfig(run=f"{tmp_path}/run", out=f"{tmp_path}/out", kernel=chosen), [])
    plain = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    recorded = json.loads((tmp_path / "run/record.json").read_text())["config"]
    assert plain == {**recorded, "kernel": {**recorded["kernel"], "name": exported}}
    assert recorded["kernel"]["name"] == "cpu"


@pytest.mark.parametrize("kernel", ["cpu", "triton"])
def test_a_run_is_used_where_its_kernel_is_missing(
    configure: Configure, tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids, logits = trained(configure, tmp_path / "run", *COMPILED)
    record = tmp_path / "run/record.json"
    record.write_text(record.read_text().replace('"name": "cpu"', f'"name": "{kernel}"'))
    for missing in ("_why_no_compiler", "_why_no_triton"):
        monkeypatch.setattr(dispatch, missing, lambda: "it is missing")
    folder = RunFolder(tmp_path / "run")
    torch.testing.assert_close(load_run(folder, torch.device("cpu")).model(ids), logits)
    assert f"kernel: auto instead of {kernel}, with which the run was trained: it is missing" in caplog.text
    evaluate(EvalConfig(run=str(folder.path), split="test", device="cpu"), [])
    generate(GenerateConfig(run=str(folder.path), tokens=2, device="cpu"), [])
    export(ExportConfig(run=str(folder.path), out=f"{tmp_path}/out"), [])
    with pytest.raises(UserError, match=r"kernel.name=triton: it is missing; choose auto"):
        generate(GenerateConfig(run=str(folder.path), tokens=2, device="cpu", kernel=KernelConfig("triton")), [])


@pytest.mark.parametrize(
    ("name", "device", "reason"),
    [
        ("cpu", "cuda", "it runs on CPUs, not on cuda"),
        ("auto", "cuda", None),
        ("dual", "mps", None),
        ("triton", "cuda", None),
        ("triton", "mps", "it runs on GPUs, and with TRITON_INTERPRET=1 on CPUs, not on mps"),
    ],
)
def test_a_kernel_is_for_a_kind_of_device(
    name: str, device: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_why_no_triton", lambda: None)
    monkeypatch.setattr(dispatch._triton_op(), "INTERPRETED", False)
    assert dispatch.why_not_here(name, torch.device(device)) == reason
