"""The compiled inner loop agrees with the definition, token by token in float64; its compilation and calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import (
    TOLERANCE,
    Arguments,
    Case,
    arguments,
    assert_close,
    exact,
    primal,
    results,
    rotated_primal,
    rotation,
)
from torch import Tensor

from ttt.kernels.cpu.build import load
from ttt.kernels.cpu.op import inner_loop, supports

B, H = 2, 3

CASES = [
    Case(16, 0, 16, 48),
    Case(48, 0, 5, 15),
    Case(64, 0, 32, 64),
    Case(64, 0, 1, 4),
    Case(96, 0, 16, 16),
    Case(16, 64, 16, 48),
    Case(48, 80, 5, 15),
    Case(64, 256, 32, 64),
    Case(64, 256, 16, 32),
    Case(16, 64, 1, 4),
    Case(16, 64, 64, 128),
]
SMALL = [Case(16, 0, 5, 20), Case(16, 32, 5, 20)]


def compiled(given: Arguments, group: int = 0) -> tuple[Tensor, tuple[Tensor, ...]]:
    return inner_loop(*given, recompute_group=group)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_the_definition(case: Case) -> None:
    given = arguments(case)
    assert_close(results(compiled, given), results(primal, given), TOLERANCE[torch.float64])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_near_the_definition(case: Case) -> None:
    single = arguments(case, torch.float32)
    assert_close(results(compiled, single), results(primal, exact(single)), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", [*SMALL, Case(48, 80, 5, 15), Case(64, 0, 16, 48)], ids=str)
def test_it_rotates_queries_and_keys(case: Case, dtype: torch.dtype) -> None:
    given = arguments(case, dtype)
    table = rotation(given, dtype)
    found = results(lambda a: inner_loop(*a, rotation=table), given)
    assert_close(found, results(rotated_primal, exact(given)), TOLERANCE[dtype])


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("group", [1, 3, 10**12])
def test_any_group_gives_the_same_bytes(case: Case, group: int) -> None:
    given = arguments(case)
    grouped = results(lambda a: compiled(a, group), given)
    for name, x in results(compiled, given).items():
        assert torch.equal(x, grouped[name]), name


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_number_of_threads_changes_no_byte(case: Case) -> None:
    given = arguments(case, torch.float32)
    one_thread = results(compiled, given)
    torch.set_num_threads(2)
    try:
        two_threads = results(compiled, given)
    finally:
        torch.set_num_threads(1)
    for name, x in one_thread.items():
        assert torch.equal(x, two_threads[name]), name


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept(case: Case) -> None:
    given = arguments(case)
    z, W_last = compiled(given)
    with torch.no_grad():
        z_alone, W_alone = compiled(given)
    assert z_alone.grad_fn is None
    assert torch.equal(z, z_alone)
    assert all(map(torch.equal, W_last, W_alone))
    arguments_of_op = [list(given.W), *given[1:], None, 2]
    assert torch.ops.ttt_cpu.forward(*arguments_of_op, True, False)[2].numel() == 0
    assert torch.ops.ttt_cpu.forward(*arguments_of_op, True, True)[2].shape[:3] == (B, H, 2)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_layouts_do_not_matter(case: Case) -> None:
    given = arguments(case)
    dense = given.map(lambda x: x.detach().contiguous().requires_grad_())
    strided = given.map(lambda x: x.detach().transpose(-1, 0).contiguous().transpose(-1, 0).requires_grad_())
    expected = results(compiled, dense)
    assert_close(results(compiled, given), expected, 1e-14)
    assert_close(results(compiled, strided), expected, 1e-14)
    z, _ = compiled(dense)
    assert z.transpose(1, 2).is_contiguous(), "merging the heads costs nothing"


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_one_initial_state_for_all_sequences(case: Case) -> None:
    given = arguments(case)
    shared = given._replace(W=tuple(w[0].detach().requires_grad_() for w in given.W))

    def of_all(kernel, given: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:  # type: ignore[no-untyped-def]
        return kernel(given._replace(W=tuple(w.expand(B, *w.shape) for w in given.W)))

    found = results(lambda a: of_all(compiled, a), shared)
    assert_close(found, results(lambda a: of_all(primal, a), shared), 1e-10)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_any_subset_of_gradients(case: Case) -> None:
    given = arguments(case)
    expected = results(compiled, given)
    for i, name in enumerate(["q", "k"]):
        constant = given.map(Tensor.detach)
        leaf = constant[3 + i].requires_grad_()
        z, _ = compiled(constant)
        (single,) = torch.autograd.grad(z.sum(), leaf)
        (one_of_all,) = torch.autograd.grad(compiled(given)[0].sum(), given[3 + i])
        assert torch.equal(single, one_of_all), name
    (only_state,) = torch.autograd.grad(compiled(given)[1][0].sum(), given.v)
    assert only_state.shape == expected["dv"].shape


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_inputs_are_left_alone(case: Case) -> None:
    given = arguments(case)
    before = [x.detach().clone() for x in given.tensors()]
    results(compiled, given)
    assert all(map(torch.equal, before, given.tensors()))


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loop_that_diverged_is_seen(case: Case, dtype: torch.dtype) -> None:
    for poison in (float("nan"), float("inf")):
        given = arguments(case, dtype).map(Tensor.detach)
        given.k[0, 1, 7] = poison
        z, W_last = compiled(given)
        assert z[0, 1, 10:].isnan().all()
        assert all(w[0, 1].isnan().any() for w in W_last)
        assert z[1].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_torch_finds_nothing_wrong_with_the_operators(case: Case) -> None:
    load()
    given = arguments(case)
    table = rotation(given, given.q.dtype)
    torch.library.opcheck(torch.ops.ttt_cpu.forward.default, (list(given.W), *given[1:], table, 3, True, True))
    constant = given.map(Tensor.detach)
    z, W_last, kept = torch.ops.ttt_cpu.forward(list(constant.W), *constant[1:], table, 3, True, True)
    torch.library.opcheck(
        torch.ops.ttt_cpu.backward.default,
        (torch.ones_like(z), W_last, kept, list(constant.W), *constant[1:], table, 3, True),
    )


def test_a_compiled_function_calls_it_without_a_break() -> None:
    given = arguments(SMALL[1])
    fused = torch.compile(lambda a: compiled(a), backend="aot_eager", fullgraph=True)
    assert_close(results(fused, given), results(compiled, given), 1e-14)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_no_tokens_change_nothing(case: Case) -> None:
    given = arguments(case._replace(tokens=0))
    z, W_last = compiled(given)
    assert z.shape[2] == 0
    assert all(map(torch.equal, W_last, given.W))
    upstream = torch.ones_like(W_last[0])
    assert torch.equal(torch.autograd.grad(W_last[0], given.W[0], upstream)[0], upstream)


def test_a_second_derivative_is_refused() -> None:
    given = arguments(SMALL[0])
    (dq,) = torch.autograd.grad(compiled(given)[0].sum(), given.q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        dq.sum().backward()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: a._replace(k=a.k[:, :, :-5]),
        lambda a: a._replace(tau=a.tau[:3]),
        lambda a: a._replace(eta=a.eta.mT),
        lambda a: a._replace(W=a.W[:3]),
        lambda a: a._replace(W=tuple(w[:, :1] for w in a.W)),
        lambda a: a._replace(W=(a.W[0][..., :8], *a.W[1:])),
        lambda a: a._replace(scale=a.scale.float()),
        lambda a: a.map(Tensor.half),
    ],
)
def test_wrong_sizes_and_types_do_not_reach_the_kernel(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError):
        compiled(wrong(arguments(SMALL[1])))


def test_what_is_supported() -> None:
    assert supports(64, (), 16, torch.float32)
    assert supports(48, (80,), 64, torch.float64)
    assert not supports(24, (), 16, torch.float32)
    assert not supports(64, (40,), 16, torch.float32)
    assert not supports(64, (256, 256), 16, torch.float32)
    assert not supports(64, (), 65, torch.float32)
    assert not supports(64, (), 16, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_a_compiler_that_fails_is_one_line(compiler: str, tmp_path: Path) -> None:
    program = (
        "from ttt.kernels.cpu.build import CompilerError, load\n"
        "for _ in range(2):\n"
        "    try: load()\n"
        "    except CompilerError as error: print(error)\n"
    )
    environment = os.environ | {"CXX": compiler, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    assert "does not compile" in first
    assert done.stderr.count("compiling the CPU kernel") == 1, "a process tries once"
