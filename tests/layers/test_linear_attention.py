"""Linear attention agrees with its definition, the matrix of all pairs of tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ttt.config.errors import UserError
from ttt.config.layers import LinearAttentionConfig
from ttt.layers.flops import count_flops
from ttt.layers.linear_attention import CHUNK, LinearAttention
from ttt.layers.registry import LayerSpec, build_layer
from ttt.layers.views import merge_heads

WIDTH, HEADS = 24, 3
FEATURES = [("elu", True), ("elu", False), ("none", False)]


def make_layer(feature_map: str = "elu", normaliser: bool = True, conv_gate: bool = False) -> LinearAttention:
    torch.manual_seed(0)
    config = LinearAttentionConfig(name="linear_attention", feature_map=feature_map, normaliser=normaliser)
    layer = build_layer(config, LayerSpec(WIDTH, HEADS, init_std=0.3, conv_gate=conv_gate))
    assert isinstance(layer, LinearAttention)
    return layer


def turned(x_BHTD: Tensor, base: float) -> Tensor:
    """Apply RoPE: every pair of entries as a complex number, times exp(i angle)."""
    T, D = x_BHTD.shape[2:]
    angle = torch.outer(torch.arange(T), base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    pairs = torch.view_as_complex(x_BHTD.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def by_all_pairs(layer: LinearAttention, x_BTC: Tensor) -> Tensor:
    (q, k, v, *gate), _ = layer.views(x_BTC, None, layer.output.g)
    q, k = turned(q, layer.config.rope_base), turned(k, layer.config.rope_base)
    if layer.config.feature_map == "elu":
        q, k = F.elu(q) + 1, F.elu(k) + 1
    pairs_BHTT = (q @ k.mT).tril()
    weights = pairs_BHTT / pairs_BHTT.sum(-1, keepdim=True) if layer.config.normaliser else pairs_BHTT
    return layer.output(layer.post_norm(merge_heads(weights @ v)), *gate)


@pytest.mark.parametrize("conv_gate", [False, True])
@pytest.mark.parametrize(("feature_map", "normaliser"), FEATURES)
@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_outputs_and_gradients_are_the_definitions(
    feature_map: str, normaliser: bool, tokens: int, conv_gate: bool
) -> None:
    layer = make_layer(feature_map, normaliser, conv_gate).double()
    x, dy = torch.randn(2, 2, tokens, WIDTH, dtype=torch.float64)
    inputs = [x.requires_grad_(), *layer.parameters()]
    (actual, _), expected = layer(x), by_all_pairs(layer, x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(y, inputs, dy) for y in (actual, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_sums_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y, state = make_layer()(torch.randn(2, CHUNK + 1, WIDTH))
    assert y.dtype == torch.bfloat16
    assert (state["S"].dtype, state["keys"].dtype) == (torch.float32, torch.float32)
    assert state["position"] == CHUNK + 1


def test_without_a_normaliser_no_keys_are_summed() -> None:
    _, state = make_layer(normaliser=False)(torch.randn(1, 5, WIDTH))
    assert state.keys() == {"S", "position"}


@pytest.mark.parametrize("tokens", [1, 3 * CHUNK, 3 * CHUNK + 5])
def test_flops_with_a_remainder(tokens: int) -> None:
    layer = make_layer()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(1, tokens, WIDTH))
    assert count_flops(layer, tokens) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feature_map": "relu"}, r"model.feature_map=relu: choose one of elu, none"),
        ({"feature_map": "none"}, r"model.normaliser=true: could be zero with model.feature_map=none; set it to false"),
    ],
)
def test_invalid_values_are_refused_by_name(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_layer(**values)  # type: ignore[arg-type]
