"""``ttt.TTTLinear``, ``ttt.TTTMLP`` and ``ttt.build_layer``."""

from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import ttt
from ttt.config.assets import assets
from ttt.config.layers import SHIPPED, TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig
from ttt.models.build import build_model

ONE_LINE = r"\A[^\n]*\Z"

NAMES = "deltanet, gated_deltanet, gla, linear_attention, mamba, mamba2, transformer, ttt_linear, ttt_mlp"

MISTAKES = [
    ({"heads": 5}, "heads=5: must divide width=32"),
    ({"heads": 32}, "heads=32: must leave an even head width, not 1"),
    ({"heads": 0}, "heads=0: give a whole number of at least 1"),
    ({"width": 32.0}, "width=32.0: give a whole number of at least 1"),
    ({"kernel": "cuda"}, "kernel.name=cuda: choose one of auto, primal, dual, cpu, triton"),
    ({"mini_batch": 4}, "model.mini_batch: no such key; did you mean mini_batch_size?"),
    ({"mini_batch_size": 0}, "model.mini_batch_size=0: must be at least 1"),
    (
        {"mini_batch_size": "many"},
        "model.mini_batch_size=many: Value 'many' of type 'str' could not be converted to Integer",
    ),
    ({"W_init": "zero", "norm": False}, "model.learnable_norm=true: model.norm=false leaves no LN to learn"),
]

FILES = [
    ("model: {name: ttt_linear, mini_batch_size: '${ctx.length}'}", "model.mini_batch_size: Interpolation key"),
    ("model: {name: ttt_linear, mini_batch_size: '${'}", "not YAML (no viable alternative at input"),
    ("model: {name: ttt_linear, tau: 1}", "model.tau: no such key"),
    ("model: {name: ttt}", f"model.name=ttt: choose one of {NAMES}"),
    ("model: {name: ttt_mlp, hidden: []}", "model.hidden=[]: an MLP needs at least one width"),
    ("model: {inner_model: linear}", f"has no model.name; it names the layer, one of {NAMES}"),
    ("[1, 2]", "must map keys to values"),
    ("{", "not YAML"),
    (b"\xff", "not YAML"),
    (None, "cannot be read (No such file or directory); give a YAML file"),
]


@pytest.mark.parametrize("layer", [ttt.TTTLinear, ttt.TTTMLP])
def test_tokens_one_by_one_give_the_outputs_of_the_whole(layer: type) -> None:
    torch.manual_seed(0)
    built = layer(width=16, heads=2, kernel="dual", mini_batch_size=4).double()
    x = torch.randn(3, 10, 16, dtype=torch.float64)
    whole, _ = built(x)
    state, outputs = None, []
    for t in range(10):
        y, state = built(x[:, t : t + 1], state)
        outputs.append(y)
    assert whole.shape == (3, 10, 16)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=0, atol=1e-12)


def test_a_layer_is_the_one_of_a_model() -> None:
    size = SizeConfig(name="tiny", width=16, blocks=1, heads=2, mlp_hidden=8)
    config = TTTConfig(name="ttt_mlp", inner_model="mlp", hidden=[4], eta_base=0.1, eta_base_start=0.01)
    model = build_model(config, size, BackboneConfig("mamba"), KernelConfig("dual"), 20)
    layer = ttt.TTTMLP(width=16, heads=2, kernel="dual", conv_gate=True)
    layer.load_state_dict(model.blocks[0].layer.state_dict())
    assert layer.config == config
    x = torch.randn(1, 5, 16)
    assert torch.equal(layer(x)[0], model.blocks[0].layer(x)[0])


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=str)
def test_a_mistake_is_a_value_error_of_one_line(arguments: dict, line: str) -> None:
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        ttt.TTTLinear(**{"width": 32, "heads": 4} | arguments)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (torch.zeros(5, 16), "x has shape [5, 16]; give [B, T, C] with C = 16"),
        (torch.zeros(1, 5, 8), "x has shape [1, 5, 8]; give [B, T, C] with C = 16"),
        (torch.zeros(1, 0, 16), "x has shape [1, 0, 16]; give [B, T, C] with C = 16"),
        (torch.zeros(1, 5, 16, dtype=torch.int64), "x has dtype torch.int64; give vectors"),
    ],
    ids=["no batch", "another width", "no token", "ids"],
)
def test_an_input_of_another_form_is_refused(x: torch.Tensor, line: str) -> None:
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        ttt.TTTLinear(width=16, heads=2, kernel="dual")(x)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_its_content_and_a_name_give_the_same_layer(name: str) -> None:
    file = assets() / "conf" / "model" / f"{name}.yaml"
    content = OmegaConf.load(file)
    states = []
    for source in (file, str(file), content, content.model, yaml.safe_load(file.read_text())["model"], name):
        torch.manual_seed(0)
        states.append(ttt.build_layer(source, width=16, heads=2, kernel="dual").state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)


def test_a_runs_configuration_gives_its_layer(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    size = {"name": "s", "width": 16, "heads": 2, "init_std": 0.5, "blocks": 1}
    model = {"name": "ttt_linear", "mini_batch_size": 4, "token_scale": True}
    file.write_text(yaml.safe_dump({"model": model, "size": size, "backbone": {"name": "mamba"}, "seed": 0}))
    layer = ttt.build_layer(file, mini_batch_size=8)
    assert layer.config.mini_batch_size == 8
    assert layer.config.token_scale == "learned", "the value of an earlier version is translated"
    assert layer.views.conv_q is not None
    assert layer(torch.zeros(1, 3, 16))[0].shape == (1, 3, 16)


@pytest.mark.parametrize(("text", "line"), FILES, ids=str)
def test_a_file_that_gives_no_layer_is_named(text: str | bytes | None, line: str, tmp_path: Path) -> None:
    file = tmp_path / "layer.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        ttt.build_layer(file, width=16, heads=2)
    assert line in str(caught.value)
    assert "model." in line or str(file) in str(caught.value)


def test_a_width_that_nobody_gives_is_named() -> None:
    with pytest.raises(ValueError, match=r"^width=null: give a whole number of at least 1$"):
        ttt.build_layer("mamba")
