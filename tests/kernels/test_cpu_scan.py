"""The compiled selective scan agrees with the definition, token by token in float64; how Mamba chooses it."""

import logging
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCE, assert_close
from scan_cases import make_inputs
from scan_cases import token_by_token as ungated
from torch import Tensor

from ttt.config.errors import UserError
from ttt.config.layers import MambaConfig
from ttt.config.schema import KernelConfig
from ttt.kernels import dispatch
from ttt.kernels.cpu import selective_scan as op
from ttt.kernels.cpu.build import CompilerError, load
from ttt.kernels.cpu.selective_scan import gated_scan
from ttt.kernels.dispatch import is_compiled
from ttt.layers.mamba import Mamba, plain_scan
from ttt.layers.registry import LayerSpec, build_layer

NAMES = ["u", "dt", "A", "B", "C", "D", "z", "dt_bias", "h"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Case(NamedTuple):
    """Sizes: T, B, E, N."""

    tokens: int
    batch: int
    inner: int
    state: int


CASES = [
    Case(1, 1, 1, 1),
    Case(1, 3, 17, 16),
    Case(63, 2, 5, 3),
    Case(64, 1, 64, 16),
    Case(65, 2, 16, 16),
    Case(129, 1, 70, 7),
    Case(200, 2, 130, 33),
]
SMALL = Case(67, 2, 70, 9)  # two segments and two groups of channels


def given(case: Case, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return (u, dt, A, B, C, D, z, dt_bias, h) requiring gradients."""
    u, _, *others, h = make_inputs(*case, dtype=dtype)
    dt, z = torch.randn(2, *u.shape, dtype=dtype)
    dt_bias = torch.randn(case.inner, dtype=dtype)
    return leaves([u, dt - 2, *others, z, dt_bias, h], dtype)


def token_by_token(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    u, dt, A, B, C, D, z, dt_bias, h = inputs
    y, h = ungated(u, F.softplus(dt + dt_bias), A, B, C, D, h)
    return y * F.silu(z), h


def leaves(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the same numbers in another dtype."""
    return [x.detach().to(dtype).requires_grad_() for x in inputs]


def results(scan, inputs: list[Tensor]) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Return outputs, last state and, from random upstream gradients of both, the gradient of every input."""
    y, h_last = scan(*inputs)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (y, h_last)]
    gradients = torch.autograd.grad((y, h_last), inputs, upstream)
    return {"y": y, "h_last": h_last, **{f"d{name}": x for name, x in zip(NAMES, gradients, strict=True)}}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, x in expected.items():
        assert torch.equal(found[name], x), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_the_definition(case: Case) -> None:
    inputs = given(case)
    assert_close(results(gated_scan, inputs), results(token_by_token, inputs), TOLERANCE[torch.float64])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_near_the_definition(case: Case) -> None:
    inputs = given(case, torch.float32)
    expected = results(token_by_token, leaves(inputs, torch.float64))
    assert_close(results(gated_scan, inputs), expected, TOLERANCE[torch.float32])


def test_it_agrees_with_the_plain_form() -> None:
    inputs = given(SMALL)
    assert_close(results(gated_scan, inputs), results(plain_scan, inputs), 1e-12)


@pytest.mark.parametrize("lengths", [[1, 66], [64, 3], [10, 30, 27]], ids=str)
def test_chunks_read_one_after_another_equal_the_whole(lengths: list[int]) -> None:
    def in_chunks(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D, z, dt_bias, h = inputs
        outputs = []
        for chunk in zip(*(x.split(lengths, dim=1) for x in (u, dt, B, C, z)), strict=True):
            u, dt, B, C, z = chunk
            y, h = gated_scan(u, dt, A, B, C, D, z, dt_bias, h)
            outputs.append(y)
        return torch.cat(outputs, dim=1), h

    inputs = given(SMALL)
    assert_close(results(in_chunks, inputs), results(gated_scan, inputs), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decays_that_underflow_are_harmless(dtype: torch.dtype) -> None:
    u, dt, A, *others = given(SMALL)
    dt = dt.detach()
    dt[:, ::3], dt[:, 1::3] = -1000, -14  # a step of 0, and decays between 0 and 1
    inputs = leaves([u, dt, 1e6 * A, *others], dtype)
    found, expected = results(gated_scan, inputs), results(token_by_token, leaves(inputs, torch.float64))
    assert_close(found, expected, TOLERANCE[dtype])


def test_the_number_of_threads_changes_no_byte() -> None:
    inputs = given(SMALL, torch.float32)
    one_thread = results(gated_scan, inputs)
    torch.set_num_threads(2)
    try:
        two_threads = results(gated_scan, inputs)
    finally:
        torch.set_num_threads(1)
    assert_equal(two_threads, one_thread)


@pytest.mark.parametrize("tokens", [64, 67])
def test_layouts_do_not_matter(tokens: int) -> None:
    inputs = given(SMALL._replace(tokens=tokens))
    expected = results(gated_scan, inputs)
    tokens_adjacent = [x.detach().mT.contiguous().mT.requires_grad_() for x in inputs[:5]]
    batch_adjacent = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in inputs]
    assert_equal(results(gated_scan, [*tokens_adjacent, *inputs[5:]]), expected)
    assert_equal(results(gated_scan, batch_adjacent), expected)
    y, _ = gated_scan(*tokens_adjacent, *inputs[5:])
    du, ddt = torch.autograd.grad(y.sum(), tokens_adjacent[:2])
    assert du.stride() == ddt.stride() == tokens_adjacent[0].stride(), "the convolution's layout"


def test_one_row_for_all_is_read_by_its_strides() -> None:
    inputs = given(SMALL)
    u, dt, *others = inputs

    def expanded(*_: Tensor) -> tuple[Tensor, Tensor]:
        return gated_scan(u[:1].expand_as(u), dt[:, :1].expand_as(dt), *others)

    def copied(*_: Tensor) -> tuple[Tensor, Tensor]:
        return gated_scan(u[:1].repeat(2, 1, 1), dt[:, :1].repeat(1, 67, 1), *others)

    assert_close(results(expanded, inputs), results(copied, inputs), 1e-14)


def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept() -> None:
    inputs = given(SMALL)
    y, h_last = gated_scan(*inputs)
    with torch.no_grad():
        y_alone, h_alone = gated_scan(*inputs)
    assert y_alone.grad_fn is None
    assert torch.equal(y, y_alone)
    assert torch.equal(h_last, h_alone)
    assert torch.ops.ttt_cpu.selective_scan(*inputs, False)[2].numel() == 0
    assert torch.ops.ttt_cpu.selective_scan(*inputs, True)[2].shape == (2, 2, 12, 96), "a state per 64 tokens"


def test_any_subset_of_gradients() -> None:
    inputs = given(SMALL)
    constant = [x.detach() for x in inputs]
    B = constant[3].clone().requires_grad_()
    (alone,) = torch.autograd.grad(gated_scan(*constant[:3], B, *constant[4:])[0].sum(), B)
    (of_all,) = torch.autograd.grad(gated_scan(*inputs)[0].sum(), inputs[3])
    assert torch.equal(alone, of_all)
    (of_state,) = torch.autograd.grad(gated_scan(*inputs)[1].sum(), inputs[-1])
    assert_close({"h": of_state}, {"h": torch.autograd.grad(token_by_token(*inputs)[1].sum(), inputs[-1])[0]}, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [float("nan"), -float("nan"), float("inf")])
@pytest.mark.parametrize("number", [0, 1], ids=NAMES[:2])
def test_numbers_that_are_not_finite_stay_visible(number: int, poison: float, dtype: torch.dtype) -> None:
    inputs = [x.detach() for x in given(SMALL, dtype)]
    inputs[number][0, 3, 20] = poison
    y, h_last = gated_scan(*inputs)
    assert not y[0, 3:, 20].isfinite().any()
    assert not h_last[0, 20].isfinite().any()
    y[0, :, 20] = h_last[0, 20] = 0
    assert y.isfinite().all()
    assert h_last.isfinite().all()


def test_no_tokens_change_nothing() -> None:
    inputs = given(SMALL._replace(tokens=0))
    y, h_last = gated_scan(*inputs)
    assert y.shape == (2, 0, 70)
    assert torch.equal(h_last, inputs[-1])
    gradients = torch.autograd.grad(h_last.sum(), inputs)
    assert torch.equal(gradients[-1], torch.ones_like(h_last))
    assert not gradients[2].any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_finds_nothing_wrong_with_the_operators() -> None:
    load()
    inputs = given(SMALL)
    torch.library.opcheck(torch.ops.ttt_cpu.selective_scan.default, (*inputs, True))
    constant = [x.detach() for x in inputs]
    y, h_last, kept = torch.ops.ttt_cpu.selective_scan(*constant, True)
    backward = torch.ops.ttt_cpu.selective_scan_backward.default
    torch.library.opcheck(backward, (torch.ones_like(y), h_last, kept, *constant[:8]))


def test_a_compiled_function_calls_it_without_a_break() -> None:
    inputs = given(SMALL)
    fused = torch.compile(lambda *x: gated_scan(*x), backend="aot_eager", fullgraph=True)
    assert_close(results(fused, inputs), results(gated_scan, inputs), 1e-14)


def test_a_second_derivative_is_refused() -> None:
    inputs = given(SMALL)
    (du,) = torch.autograd.grad(gated_scan(*inputs)[0].sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        du.sum().backward()


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_wrong_sizes_and_types_do_not_reach_the_kernel(number: int) -> None:
    inputs = [x.detach() for x in given(SMALL)]
    for wrong in (inputs[number][..., :-1], inputs[number].float()):
        with pytest.raises(RuntimeError):
            gated_scan(*inputs[:number], wrong, *inputs[number + 1 :])


def make_mamba(kernel: str) -> Mamba:
    torch.manual_seed(0)
    layer = build_layer(MambaConfig(name="mamba"), LayerSpec(24, heads=4, kernel=KernelConfig(kernel)))
    assert isinstance(layer, Mamba)
    return layer


def calls_of_the_operator(kernel: str, monkeypatch: pytest.MonkeyPatch) -> int:
    calls: list[bool] = []

    def counted(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(True)
        return gated_scan(*inputs)

    monkeypatch.setattr(op, "gated_scan", counted)
    make_mamba(kernel)(torch.randn(1, 5, 24))
    return len(calls)


@pytest.mark.parametrize(("kernel", "compiled"), [("auto", 1), ("cpu", 1), ("dual", 0), ("primal", 0), ("triton", 0)])
def test_the_kernel_of_the_configuration_chooses_mambas_scan(
    kernel: str, compiled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls_of_the_operator(kernel, monkeypatch) == compiled


@pytest.mark.parametrize("tokens", [1, 70])
def test_a_mamba_layer_computes_the_same_with_both(tokens: int) -> None:
    x, h = torch.randn(2, tokens, 24), torch.randn(2, 48, 16)
    found = []
    for kernel in ("cpu", "dual"):
        layer = make_mamba(kernel).double()
        state = {"h": h.double(), "conv1d.inputs": torch.ones(2, 3, 48, dtype=torch.float64)}
        y, after = layer(x.double(), state)
        gradients = torch.autograd.grad(y.square().sum() + after["h"].sum(), list(layer.parameters()))
        found.append({"y": y, "h": after["h"], **dict(zip(dict(layer.named_parameters()), gradients, strict=True))})
    assert_close(*found, 1e-12)


def test_under_autocast_the_state_is_float32() -> None:
    layer, x = make_mamba("cpu"), torch.randn(2, 9, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
    assert (y.dtype, state["h"].dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), layer(x)[0], rtol=0, atol=0.02)


def test_without_a_compiler_auto_warns_once_and_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise CompilerError("no c++ found")

    monkeypatch.setattr(dispatch, "load", fail)
    dispatch._why_no_compiler.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert calls_of_the_operator("auto", monkeypatch) == 0
        assert [record.getMessage().count("no c++ found") for record in caplog.records] == [1]
        with pytest.raises(UserError, match=r"kernel.name=cpu: .*no c\+\+ found.*; choose auto"):
            make_mamba("cpu")(torch.randn(1, 5, 24))
    finally:
        dispatch._why_no_compiler.cache_clear()


def test_on_a_gpu_cpu_is_refused_and_auto_is_not_compiled() -> None:
    assert not is_compiled(KernelConfig("auto"), CUDA)
    assert is_compiled(KernelConfig("auto"), CPU)
    with pytest.raises(UserError, match=r"kernel.name=cpu: it runs on CPUs, not on cuda; choose auto"):
        is_compiled(KernelConfig("cpu"), CUDA)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(UserError, match=r"kernel.name=cuda: choose one of auto, primal, dual, cpu"):
        make_mamba("cuda")
