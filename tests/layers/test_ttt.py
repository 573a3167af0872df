"""The switches of the TTT layer: every combination streams and trains, invalid ones are refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ttt.config.errors import UserError
from ttt.config.layers import TTTConfig
from ttt.config.schema import KernelConfig
from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.models import registry
from ttt.inner.models.registry import register_inner_model
from ttt.layers.inner_state import pack
from ttt.layers.registry import LayerSpec, build_layer
from ttt.layers.ttt import TTT

T, WIDTH = 37, 24
SPEC = LayerSpec(WIDTH, heads=2, init_std=0.2, conv_gate=True)
SWITCHES: dict[str, dict[str, object]] = {
    "three layers": {"inner_model": "mlp", "hidden": [2, 3]},
    "relu": {"inner_model": "mlp", "hidden": [2], "activation": "relu"},
    "no biases": {"inner_bias": False},
    "online": {"mini_batch_size": 1},
    "batch": {"mini_batch_size": 100},
    "zero W_0": {"W_init": "zero"},
    "no LN": {"norm": False, "learnable_norm": False},
    "fixed LN": {"learnable_norm": False},
    "no residual": {"residual": False},
    "loss not halved": {"halved_loss": False},
    "constant eta": {"learnable_eta": False},
    "no 1 / D": {"eta_over_dim": False, "eta_base": 0.05, "eta_base_start": 0.05},
    "no token scale": {"token_scale": "none"},
    "fixed token scale": {"token_scale": "fixed"},
    "momentum": {"momentum": 0.5},
    "forget gate": {"forget_gate": True},
    "all at once": {"momentum": 0.5, "forget_gate": True, "mini_batch_size": 5, "inner_bias": False},
}


def make(**values: object) -> TTT:
    torch.manual_seed(0)
    config = TTTConfig(**({"name": "ttt_linear", "inner_model": "linear"} | values))  # type: ignore[arg-type]
    layer = build_layer(config, SPEC)
    assert isinstance(layer, TTT)
    return layer.double()


@pytest.mark.parametrize("values", SWITCHES.values(), ids=list(SWITCHES))
def test_a_layer_streams_and_all_of_it_learns(values: dict[str, object]) -> None:
    layer = make(**values)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, T, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    state, outputs = {}, []
    for chunk in x.split([1, 2, 10, 1, 16, 7], dim=1):
        z, state = layer(chunk, state)
        outputs.append(z)
    torch.testing.assert_close(torch.cat(outputs, dim=1), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("values", SWITCHES.values(), ids=list(SWITCHES))
def test_a_layer_is_what_the_primal_kernel_computes(values: dict[str, object]) -> None:
    layer, x = make(**values), torch.randn(2, T, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    from ttt.kernels.dispatch import choose_kernel

    layer.kernel = choose_kernel(KernelConfig("primal"), layer.inner)
    torch.testing.assert_close(layer(x)[0], y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("conv_gate", [False, True])
def test_the_kernel_reads_views_in_their_memory_order(conv_gate: bool) -> None:
    """The order is [B, T, H, D]; views in another one are copied in the forward pass and again in the backward pass."""
    layer = build_layer(TTTConfig("ttt_linear", inner_model="linear"), replace(SPEC, conv_gate=conv_gate))
    kernel, read = layer.kernel, []

    def spy(loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        read.extend(inputs[:3])
        return kernel(loop, state, inputs)

    layer.kernel = spy
    layer(torch.randn(2, T, WIDTH))
    assert [view.transpose(1, 2).is_contiguous() for view in read] == [True] * 3


def test_only_a_state_without_a_sum_is_packed_with_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    W, sums = (torch.ones(1, 2, 3, 3),), (torch.ones(1, 2, 3, 3),)
    assert pack(["W1"], InnerState(W))["grad_sum.W1"].eq(0).all()
    monkeypatch.setattr(torch, "zeros_like", lambda _: pytest.fail("as large as W, for every decoded token"))
    assert pack(["W1"], InnerState(W, sums, offset=1))["grad_sum.W1"] is sums[0]


def test_a_constant_eta_is_where_a_learnable_one_starts() -> None:
    """Row 7 of Table 1 starts with the eta of row 6, because sigmoid(0) = 1/2."""
    constant, learnable = make(learnable_eta=False), make()
    assert learnable.eta_weight is not None
    nn.init.zeros_(learnable.eta_weight)
    learnable.load_state_dict(constant.state_dict(), strict=False)
    x = torch.randn(1, T, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(learnable(x)[0], constant(x)[0], rtol=0, atol=1e-12)


def test_equal_seeds_start_layers_from_equal_projections() -> None:
    for values in SWITCHES.values():
        assert torch.equal(make(**values).views.q.weight, make().views.q.weight)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"mini_batch_size": 0}, "model.mini_batch_size=0: must be at least 1"),
        ({"mini_batch_size": -3}, "model.mini_batch_size=-3: must be at least 1"),
        ({"norm": False}, "model.learnable_norm=true: model.norm=false leaves no LN to learn"),
        ({"inner_model": "mlp"}, r"model.hidden=\[\]: an MLP needs at least one width"),
        ({"inner_model": "mlp", "hidden": [4, 0]}, "model.hidden=0: must be at least 1"),
        ({"hidden": [4]}, r"model.hidden=\[4\]: must be \[\] for inner_model=linear"),
        ({"inner_model": "mlp", "hidden": [4], "W_init": "zero"}, "model.W_init=zero: .*without gradients"),
        ({"W_init": "random"}, "model.W_init=random: choose one of learnable, zero"),
        ({"inner_model": "transformer"}, "model.inner_model=transformer: choose one of linear, mlp"),
        ({"inner_model": "mlp", "hidden": [2], "activation": "sin"}, "model.activation=sin: choose one of gelu"),
        ({"eta_base": 0.0}, "model.eta_base=0.0: must be positive"),
        ({"momentum": 1.0}, "model.momentum=1.0: must be at least 0 and below 1"),
    ],
)
def test_invalid_values_are_refused_by_name(values: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        make(**values)


def test_an_inner_model_of_another_output_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ADDED", {})
    register_inner_model("halves")(lambda head_dim: nn.Linear(head_dim, head_dim // 2))
    with pytest.raises(UserError, match=r"inner_model=halves: maps a token of shape \(1, 12\) to \(1, 6\)"):
        make(inner_model="halves")


def test_an_inner_model_without_a_dual_form_is_said_to_be_slow_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_ADDED", {})
    register_inner_model("a_slow_one")(lambda head_dim: nn.Linear(head_dim, head_dim))
    for name in ("linear", "a_slow_one", "a_slow_one"):
        make(inner_model=name)
    (record,) = caplog.records
    assert record.getMessage().startswith("model.inner_model=a_slow_one: runs token by token, ")


def test_eta_base_warms_up_from_its_start() -> None:
    layer = make(inner_model="mlp", hidden=[4], eta_base=0.1, eta_base_start=0.01)
    bases = []
    for progress in (0.0, 0.5, 1.0, 2.0):
        layer.set_warmup(progress)
        bases.append(0.1 * layer.eta_warmup.item())
    assert bases == pytest.approx([0.01, 0.055, 0.1, 0.1])
