"""The compiled causal convolution is its definition, and ``CausalConv`` chooses it by the kernel group."""

import pytest
import torch
from kernel_cases import TOLERANCE, assert_close
from torch import Tensor

from ttt.config.schema import KernelConfig
from ttt.kernels.cpu import convolution
from ttt.layers.convolution import CausalConv, convolve

NAMES = ["x", "weight", "bias", "before"]
SIZES = [(2, 7, 5, 4), (1, 1, 3, 4), (3, 2, 130, 4), (2, 300, 257, 2), (1, 5, 6, 1), (2, 3, 4, 9)]
"""Batch, tokens, channels, taps."""


def given(batch: int, tokens: int, channels: int, taps: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (batch, tokens, channels), (channels, taps), (channels,), (batch, taps - 1, channels)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> Tensor:
    (y,) = convolution.causal_conv(x, [weight], [bias], [before])
    return y


def definition(x: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> Tensor:
    inputs, taps = torch.cat((before, x), dim=1), weight.shape[1]
    windows = [inputs[:, t : t + taps] for t in range(x.shape[1])]
    return torch.stack([(window * weight.mT).sum(1) + bias for window in windows], dim=1)


def results(conv, inputs: list[Tensor]) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    y = conv(*inputs)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    gradients = torch.autograd.grad(y, inputs, upstream, materialize_grads=True)
    assert [x.shape for x in gradients] == [x.shape for x in inputs]
    named = {"y": y, **{f"d{name}": x for name, x in zip(NAMES, gradients, strict=True)}}
    return {name: x for name, x in named.items() if x.numel()}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_and_gradients_are_the_definitions(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = given(*sizes, dtype=dtype)
    expected = results(definition, [x.detach().double().requires_grad_() for x in inputs])
    assert_close(results(causal_conv, inputs), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=str)
def test_filters_of_one_input_are_those_of_each_with_the_sum_of_their_gradients(used: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    filters, x = [CausalConv(20, 4).double() for _ in range(2)], torch.randn(2, 140, 20, dtype=torch.float64)
    states = [{"inputs": torch.randn(2, 3, 20, dtype=torch.float64).requires_grad_()} for _ in filters]
    inputs = [x.requires_grad_(), *(state["inputs"] for state in states), *(p for f in filters for p in f.parameters())]
    upstream = torch.randn(2, *x.shape, dtype=torch.float64)
    found = []
    for kernel in ("auto", "dual"):
        for each in filters:
            each.kernel = KernelConfig(kernel)
        y, after = convolve(x, filters, states)
        loss = sum((y[f] * upstream[f]).sum() for f in used)
        found.append(
            (*y, *(each["inputs"] for each in after), *torch.autograd.grad(loss, inputs, materialize_grads=True))
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_no_tokens_have_no_gradients() -> None:
    inputs = given(2, 0, 3, 4)
    y = causal_conv(*inputs)
    assert y.shape == inputs[0].shape
    assert not any(x.any() for x in torch.autograd.grad(y.sum(), inputs))


def test_the_number_of_threads_and_the_layout_change_no_byte() -> None:
    inputs = given(2, 40, 300, 4, torch.float32)
    expected = results(causal_conv, inputs)
    torch.set_num_threads(2)
    try:
        found = [results(causal_conv, inputs)]
    finally:
        torch.set_num_threads(1)
    tokens_adjacent = [x.detach().mT.contiguous().mT.requires_grad_() for x in (inputs[0], inputs[3])]
    wide = torch.cat((inputs[0].detach(), torch.zeros(2, 40, 300)), dim=-1)
    part = wide[..., :300].requires_grad_()
    found.append(results(causal_conv, [tokens_adjacent[0], *inputs[1:3], tokens_adjacent[1]]))
    found.append(results(causal_conv, [part, *inputs[1:]]))
    for each in found:
        assert all(torch.equal(each[name], x) for name, x in expected.items())


def test_wrong_sizes_are_refused() -> None:
    x, weight, bias, before = (x.detach() for x in given(2, 7, 5, 4))
    for wrong in (
        (x, weight[1:], bias, before),
        (x, weight, bias[1:], before),
        (x, weight, bias, before[:, 1:]),
        (x[0], weight, bias, before),
    ):
        with pytest.raises(RuntimeError, match=r"shape|is \["):
            causal_conv(*wrong)


def test_a_second_derivative_is_refused() -> None:
    inputs = given(1, 3, 2, 2)
    (dx,) = torch.autograd.grad(causal_conv(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        dx.sum().backward()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_finds_nothing_wrong_with_the_operator() -> None:
    x, *of_filter = given(2, 7, 5, 4)
    filters = [[each, each.detach().flip(0).requires_grad_()] for each in of_filter]
    torch.library.opcheck(torch.ops.ttt_cpu.causal_conv.default, (x, *filters))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_both_forms_of_the_module_agree_whole_and_in_chunks(
    bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, x = CausalConv(6, 4, bias=bias).to(dtype), torch.randn(2, 12, 6, dtype=dtype)
    calls: list[Tensor] = []

    def noted(x: Tensor, *filters: list[Tensor]) -> list[Tensor]:
        calls.append(x)
        return convolution.causal_conv(x, *filters)

    monkeypatch.setattr("ttt.layers.convolution.causal_conv", noted)
    (whole, last), (chunks, state) = module(x), ([], None)
    for chunk in x.split([1, 2, 7, 2], dim=1):
        y, state = module(chunk, state)
        chunks.append(y)
    assert len(calls) == (5 if dtype == torch.float64 else 0), "half precision is torch's"
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole)
    assert torch.equal(state["inputs"], last["inputs"])
    assert torch.equal(last["inputs"], x[:, -3:])
    assert last["inputs"].untyped_storage().nbytes() == 2 * 3 * 6 * x.element_size(), "no view of all inputs"
    module.kernel = KernelConfig("dual")
    torch.testing.assert_close(module(x)[0], whole)
    assert len(calls) == (5 if dtype == torch.float64 else 0)


def test_without_a_compiler_torch_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = CausalConv(6, 4), torch.randn(1, 5, 6)
    expected, _ = module(x)
    monkeypatch.setattr("ttt.kernels.dispatch._why_no_compiler", lambda: "no compiler")
    monkeypatch.setattr(convolution, "load_unless_compiling", None)
    torch.testing.assert_close(module(x)[0], expected)
