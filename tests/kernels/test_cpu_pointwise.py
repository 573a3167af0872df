"""The compiled norms and gates are their definitions in PyTorch, and the modules choose them by the kernel group."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCE, assert_close
from torch import Tensor, nn

from ttt.backbones import modules
from ttt.backbones.modules import RMSNorm, SwiGLU
from ttt.config.schema import KernelConfig
from ttt.kernels.cpu import pointwise
from ttt.layers.by_kernel import set_kernel
from ttt.layers.registry import LayerSpec
from ttt.layers.views import Output

EPS = 1e-6
SIZES = [(3, 1), (1, 7), (300, 5), (2, 16), (3, 43), (129, 64), (2, 344)]
"""Rows and channels: parts of vectors, whole ones, and more rows than a task has."""

Operator = Callable[..., Tensor | tuple[Tensor, ...]]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(gate, approximate="tanh") * F.layer_norm(x, weight.shape, weight, bias, EPS)


FORMS: dict[str, tuple[Operator, Operator, str]] = {
    "rms_norm": (lambda x, weight: pointwise.rms_norm(x, weight, EPS), rms_norm, "rc"),
    "sum_rms_norm": (
        lambda h, y, weight: pointwise.sum_rms_norm(h, y, weight, EPS),
        lambda h, y, weight: (h + y, rms_norm(h + y, weight)),
        "rrc",
    ),
    "gated_norm": (lambda x, gate, weight, bias: pointwise.gated_norm(x, gate, weight, bias, EPS), gated_norm, "rrcc"),
}
"""Name -> the kernel, its definition, and whether each input has rows (r) or one number a channel (c)."""


def given(kinds: str, rows: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    """Return inputs of which a few are large, where exponentials would overflow."""
    generator = torch.Generator().manual_seed(rows + channels)
    shapes = {"r": (2, rows, channels), "c": (channels,)}
    inputs = [torch.randn(shapes[kind], generator=generator, dtype=torch.float64) for kind in kinds]
    inputs[0].flatten()[0] = 200.0
    inputs[1].flatten()[-1] = -150.0
    return [x.to(dtype).requires_grad_() for x in inputs]


def results(function: Operator, inputs: list[Tensor]) -> dict[str, Tensor]:
    outputs = function(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    gradients = torch.autograd.grad(outputs, inputs, upstream)
    assert [x.shape for x in gradients] == [x.shape for x in inputs]
    return {f"{number}": x for number, x in enumerate((*outputs, *gradients))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_are_the_definitions(name: str, dtype: torch.dtype) -> None:
    kernel, definition, kinds = FORMS[name]
    for rows, channels in SIZES[1:]:  # the norm of one number has only rounding as its gradient
        inputs = given(kinds, rows, channels, dtype)
        expected = results(definition, [x.detach().double().requires_grad_() for x in inputs])
        assert_close(results(kernel, inputs), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_product_of_swiglu_and_its_gradients_are_torchs(dtype: torch.dtype) -> None:
    for rows, channels in SIZES:
        gate, up = (x.detach() for x in given("rr", rows, channels, dtype))
        upstream = torch.randn_like(gate)
        exact = [x.double() for x in (upstream, gate, up)]
        expected = modules.gated_product_backward(*exact)
        found = pointwise.gated_product_backward(upstream, gate, up)
        assert_close(dict(zip("gup", found, strict=True)), dict(zip("gup", expected, strict=True)), TOLERANCE[dtype])
        assert torch.equal(pointwise.gated_product(gate, up), found[2])
        leaves = [x.requires_grad_() for x in exact[1:]]
        gradients = torch.autograd.grad(F.silu(leaves[0]) * leaves[1], leaves, exact[0])
        torch.testing.assert_close(expected[:2], gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_the_number_of_threads_and_the_layout_change_no_byte(name: str) -> None:
    kernel, _, kinds = FORMS[name]
    inputs = given(kinds, 300, 43, torch.float32)
    expected = results(kernel, inputs)
    torch.set_num_threads(2)
    try:
        found = [results(kernel, inputs)]
    finally:
        torch.set_num_threads(1)
    found.append(results(kernel, [inputs[0].detach().mT.contiguous().mT.requires_grad_(), *inputs[1:]]))
    for each in found:
        assert all(torch.equal(each[key], x) for key, x in expected.items())


@pytest.mark.parametrize("name", FORMS)
def test_wrong_sizes_and_second_derivatives_are_refused(name: str) -> None:
    kernel, _, kinds = FORMS[name]
    inputs = given(kinds, 3, 8, torch.float64)
    for number in range(1, len(inputs)):
        wrong = [x[..., 1:] if place == number else x for place, x in enumerate(inputs)]
        with pytest.raises(RuntimeError, match="has the shape"):
            kernel(*wrong)
    outputs = kernel(*inputs)
    last = outputs if isinstance(outputs, Tensor) else outputs[-1]
    (dx,) = torch.autograd.grad(last.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        dx.sum().backward()


def test_a_sum_whose_norm_is_unused_has_its_gradient() -> None:
    h, y, weight = given("rrc", 3, 8, torch.float64)
    total, _ = pointwise.sum_rms_norm(h, y, weight, EPS)
    gradients = torch.autograd.grad(total.sum(), (h, y))
    assert all(torch.equal(x, torch.ones_like(h)) for x in gradients)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMS)
def test_torch_finds_nothing_wrong_with_the_operators(name: str) -> None:
    operator = getattr(torch.ops.ttt_cpu, name).default
    torch.library.opcheck(operator, (*given(FORMS[name][2], 3, 10, torch.float64), EPS))


class Block(nn.Module):
    """The modules with compiled norms and gates."""

    def __init__(self) -> None:
        super().__init__()
        spec = LayerSpec(16, 2, 0.3, conv_gate=True)
        self.norm, self.mlp, self.output, self.layer_norm = (
            RMSNorm(16),
            SwiGLU(16, 24, 0.3),
            Output(spec),
            nn.LayerNorm(16),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total, normed = self.norm.of_sum(x, y)
        return total + self.mlp(normed) + self.output(self.norm(y), self.output.g(x), self.layer_norm)


def names_of_calls(function: Callable[[], object]) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        function()
    return {event.key for event in profiler.key_averages() if event.key.startswith("ttt_cpu::")}


def test_modules_agree_with_their_plain_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block, x, y = Block().double(), *torch.randn(2, 2, 5, 16, dtype=torch.float64)
    inputs = [x.requires_grad_(), y.requires_grad_(), *block.parameters()]

    def computed(*_: Tensor) -> dict[str, Tensor]:
        return results(lambda x, y, *_: block(x, y), inputs)

    compiled = computed()
    forward = {f"ttt_cpu::{name}" for name in (*FORMS, "gated_product")}
    assert forward <= names_of_calls(computed)
    with torch.autocast("cpu", torch.bfloat16):
        assert not names_of_calls(lambda: block(x, y)), "mixed precision is torch's"
    set_kernel(block, KernelConfig("dual"))
    plain = computed()
    assert not names_of_calls(computed)
    assert_close(compiled, plain, 1e-12)
    set_kernel(block, KernelConfig())
    monkeypatch.setattr("ttt.kernels.dispatch._why_no_compiler", lambda: "no compiler")
    monkeypatch.setattr(pointwise, "load_unless_compiling", None)
    assert all(torch.equal(x, plain[name]) for name, x in computed().items())
