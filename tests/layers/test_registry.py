"""Every registered layer, in each of its backbones, keeps the contract. New layers are tested without an edit."""

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttt.backbones.registry import backbones
from ttt.config.errors import UserError
from ttt.config.layers import SHIPPED
from ttt.config.schema import KernelConfig, LayerConfig
from ttt.layers.flops import count_flops
from ttt.layers.registry import LayerSpec, build_layer, layer_types
from ttt.layers.state import State

WIDTH, HEADS, T = 24, 2, 37
STREAMED = 70
"""Length of a sequence that is read in parts: more than a mini-batch or a chunk."""

OWN_VALUES = {
    "ttt_linear": {"inner_model": "linear"},
    "ttt_mlp": {"inner_model": "mlp", "hidden": [4], "eta_base": 0.1, "eta_base_start": 0.01},
}
CASES = [(name, backbone) for name, layer in layer_types().items() for backbone in layer.backbones]


def make_layer(name: str, backbone: str, kernel: str = "auto", **values: object) -> nn.Module:
    torch.manual_seed(0)
    config = layer_types()[name].schema(name=name, **(OWN_VALUES.get(name, {}) | values))  # type: ignore[arg-type]
    conv_gate = backbones()[backbone].conv_gate
    spec = LayerSpec(WIDTH, HEADS, init_std=0.2, conv_gate=conv_gate, kernel=KernelConfig(kernel))
    return build_layer(config, spec)


def randomised(layer: nn.Module) -> nn.Module:
    """Replace initial zeros and ones, which would hide terms, by random values."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_a_token_changes_nothing_before_itself(name: str, backbone: str) -> None:
    layer = randomised(make_layer(name, backbone)).double()
    x = torch.randn(1, T, WIDTH, dtype=torch.float64)
    before, _ = layer(x)
    for token in (0, 1, 15, 16, 17, T - 1):
        changed = x.clone()
        changed[:, token] += 1
        difference = (layer(changed)[0] - before).abs().amax(-1)[0]
        assert difference[:token].max() == 0 if token else True
        assert difference[token] > 0


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_every_parameter_learns(name: str, backbone: str) -> None:
    layer = randomised(make_layer(name, backbone))
    y, _ = layer(torch.randn(2, T, WIDTH))
    y.square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", layer_types())
def test_names_without_weight_decay_are_parameters(name: str) -> None:
    layer = make_layer(name, layer_types()[name].backbones[0])
    assert set(getattr(layer, "no_weight_decay", ())) <= dict(layer.named_parameters()).keys()


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_sequences_of_a_batch_do_not_interact(name: str, backbone: str) -> None:
    layer = randomised(make_layer(name, backbone)).double()
    x = torch.randn(3, T, WIDTH, dtype=torch.float64)
    one_by_one = torch.cat([layer(sequence[None])[0] for sequence in x])
    torch.testing.assert_close(layer(x)[0], one_by_one, rtol=0, atol=1e-12)


def in_chunks(layer: nn.Module, x: Tensor, cuts: set[int]) -> tuple[Tensor, State]:
    """Call the layer on a sequence that is cut before these tokens."""
    lengths = [end - start for start, end in pairwise((0, *sorted(cuts), x.shape[1]))]
    outputs, state = [], {}
    for chunk in x.split(lengths, dim=1):
        y, state = layer(chunk, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), CASES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, STREAMED - 1)))
@example(cuts=set(range(1, STREAMED)))
@example(cuts={15, 17, 32, 33, 66})
def test_chunks_of_a_sequence_are_the_whole(name: str, backbone: str, cuts: set[int]) -> None:
    layer = randomised(make_layer(name, backbone)).double()
    x, dy = torch.randn(2, 2, STREAMED, WIDTH, dtype=torch.float64)
    inputs = [x.requires_grad_(), *layer.parameters()]
    (whole, last), (chunks, last_of_chunks) = layer(x), in_chunks(layer, x, cuts)
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(last_of_chunks, last, rtol=1e-10, atol=1e-10)
    expected, actual = (torch.autograd.grad(y, inputs, dy) for y in (whole, chunks))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_mixed_precision_stays_near(name: str, backbone: str) -> None:
    layer = make_layer(name, backbone)
    x = torch.randn(2, T, WIDTH)
    exact, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = layer(x)
    assert (mixed.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("name", "backbone", "tokens"),
    # TTT reads an incomplete mini-batch; Mamba's scan pads with zeros, which torch counts and the layer does not.
    [(*case, 32) for case in CASES] + [("ttt_linear", "mamba", T), ("ttt_mlp", "transformer", T)],
)
def test_flops_are_what_torch_counts(name: str, backbone: str, tokens: int) -> None:
    """Compare the plain forward pass's matrix products, without what torch does not count: elementwise operations."""
    layer = make_layer(name, backbone, kernel="dual")
    # Of torch's attention kernels on a CPU, its counter knows only the plain one.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        layer(torch.randn(1, tokens, WIDTH))
    counted = count_flops(layer, tokens) - getattr(layer, "elementwise_flops", lambda _: 0)(tokens)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_layers_are_registered_with_their_schema(name: str) -> None:
    assert layer_types()[name].schema is SHIPPED[name]


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(UserError, match=r"model.name=rwkv: choose one of .*ttt_linear"):
        build_layer(LayerConfig(name="rwkv"), LayerSpec(WIDTH, HEADS))


@pytest.mark.parametrize("kernel", ["primal", "dual", "auto"])
def test_every_kernel_computes_the_same_layer(kernel: str) -> None:
    def output(name: str) -> Tensor:
        layer = make_layer("ttt_mlp", "mamba", kernel=name).double()
        return layer(torch.ones(1, T, WIDTH, dtype=torch.float64).cumsum(1).sin())[0]

    torch.testing.assert_close(output(kernel), output("primal"), rtol=0, atol=1e-12)
