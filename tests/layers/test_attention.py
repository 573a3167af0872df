"""Attention agrees with Llama's, is causal, and trains every parameter."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from ttt.config.layers import AttentionConfig
from ttt.layers.registry import LayerSpec, build_layer

WIDTH, HEADS, TOKENS = 32, 4, 50


def make_attention(conv_gate: bool = False) -> nn.Module:
    torch.manual_seed(0)
    spec = LayerSpec(width=WIDTH, heads=HEADS, init_std=0.3, conv_gate=conv_gate)
    return build_layer(AttentionConfig(name="transformer"), spec)


def halves_from_pairs(weight: Tensor) -> Tensor:
    """Reorder the rows of a query or key projection as in Llama: the first of each pair of a head, then the second."""
    return weight.unflatten(0, (HEADS, -1, 2)).transpose(1, 2).flatten(0, 2)


def llama_order(values: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return our weights or gradients, given in the order q, k, v, o, with Llama's names and layout."""
    q, k, v, o = values
    return {
        "q_proj.weight": halves_from_pairs(q),
        "k_proj.weight": halves_from_pairs(k),
        "v_proj.weight": v,
        "o_proj.weight": o,
    }


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_outputs_and_gradients_are_llamas() -> None:
    ours = make_attention()
    config = LlamaConfig(hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=HEADS)
    config._attn_implementation = "sdpa"
    theirs, rotary = LlamaAttention(config, layer_idx=0), LlamaRotaryEmbedding(config)
    theirs.load_state_dict(llama_order(ours.parameters()))
    x, dz = torch.randn(2, 3, TOKENS, WIDTH)
    x.requires_grad_()

    z_ours, _ = ours(x)
    z_theirs, _ = theirs(x, position_embeddings=rotary(x, torch.arange(TOKENS)[None]))
    dx_ours, *ours_grads = torch.autograd.grad(z_ours, [x, *ours.parameters()], dz)
    dx_theirs, *their_grads = torch.autograd.grad(z_theirs, [x, *theirs.parameters()], dz)

    assert_near(z_ours, z_theirs)
    assert_near(dx_ours, dx_theirs)
    their_names = [name for name, _ in theirs.named_parameters()]
    expected = dict(zip(their_names, their_grads, strict=True))
    for name, gradient in llama_order(ours_grads).items():
        assert_near(gradient, expected[name])


@pytest.mark.parametrize("conv_gate", [False, True])
def test_a_token_changes_nothing_before_itself(conv_gate: bool) -> None:
    layer = make_attention(conv_gate).double()
    x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)
    changed = x.clone()
    changed[:, 30] += 1
    (before, _), (after, _) = layer(x), layer(changed)
    torch.testing.assert_close(after[:, :30], before[:, :30], rtol=0, atol=1e-12)
    assert (after[:, 30:] != before[:, 30:]).any(dim=-1).all()


@pytest.mark.parametrize("conv_gate", [False, True])
def test_every_parameter_learns(conv_gate: bool) -> None:
    layer = make_attention(conv_gate)
    z, _ = layer(torch.randn(2, TOKENS, WIDTH))
    z.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_the_mamba_backbone_adds_its_parameters() -> None:
    assert {name for name, _ in make_attention(conv_gate=True).named_parameters()} == {
        "views.q.weight",
        "views.v.weight",
        "views.conv_q.weight",
        "views.conv_q.bias",
        "views.conv_k.weight",
        "views.conv_k.bias",
        "output.g.weight",
        "output.o.weight",
    }


def test_bfloat16_keeps_its_dtype_and_stays_near() -> None:
    layer = make_attention()
    x = torch.randn(2, TOKENS, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, _ = layer(x)
    assert rounded.dtype == torch.bfloat16
    exact, _ = layer(x)
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert layer.to(torch.bfloat16)(x.bfloat16())[0].dtype == torch.bfloat16
