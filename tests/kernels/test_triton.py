"""The Triton kernels against the definition, token by token in float64, and the calls of their operators.

Without a GPU Triton's interpreter runs the kernels; with a GPU they are compiled. The interpreter computes bfloat16
wrongly, as arithmetic on 16-bit integers; ``test_triton_bfloat16.py`` repairs it.
"""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_cases import (
    DEVICE,
    TOLERANCE,
    Arguments,
    Case,
    assert_close,
    exact,
    of,
    primal,
    results,
    rotated_primal,
    rotation,
)
from torch import Tensor

from ttt.kernels.triton import op
from ttt.kernels.triton.choices import Choice, using
from ttt.kernels.triton.configurations import Layer
from ttt.kernels.triton.op import inner_loop, unsupported

LINEAR = [Case(D, 0, b, T) for D in (32, 64, 96, 128) for b, T in ((8, 24), (16, 48), (32, 64), (64, 64))]
MLP = [
    Case(32, 128, 8, 24),
    Case(32, 128, 64, 64),
    Case(64, 256, 16, 48),
    Case(64, 256, 8, 16),
    Case(64, 256, 32, 32),
    Case(64, 96, 64, 64),
    Case(96, 384, 16, 16),
    Case(96, 384, 8, 16),
    Case(128, 512, 16, 16),
    Case(128, 128, 32, 32),
]
SMALL = [Case(16, 0, 5, 15), Case(16, 32, 5, 15)]
HALF_AND_SINGLE = [torch.float16, torch.float32]
ALTERNATING = [
    *((case, HALF_AND_SINGLE[(i // 4 + i) % 2]) for i, case in enumerate(LINEAR)),
    *(
        pytest.param(case, HALF_AND_SINGLE[i % 2], marks=[pytest.mark.slow] if case.head_dim > 32 else [])
        for i, case in enumerate(MLP)
    ),
]
"""Every size with one type; every head width and, for TTT-Linear, every mini-batch size is tested with both types."""
if DEVICE == "cuda":
    ALTERNATING = [(case, dtype) for case in LINEAR + MLP for dtype in HALF_AND_SINGLE]


def triton(given: Arguments, group: int = 2) -> tuple[Tensor, tuple[Tensor, ...]]:
    return inner_loop(*given, recompute_group=group)


def rotating(given: Arguments, group: int = 2) -> tuple[Tensor, tuple[Tensor, ...]]:
    return inner_loop(*given, recompute_group=group, rotation=rotation(given))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("case", "dtype"), ALTERNATING, ids=str)
def test_outputs_state_and_gradients_are_the_definitions(case: Case, dtype: torch.dtype) -> None:
    # Other tests have several heads; the interpreter takes as long for each as for the first.
    given = of(case, dtype, heads=2 if case.head_dim == 32 else 1)
    before = [x.detach().clone() for x in given.tensors()]
    found = results(rotating, given)
    assert_close(found, results(rotated_primal, exact(given)), TOLERANCE[dtype])
    assert all(map(torch.equal, before, given.tensors())), "inputs are not changed"
    assert found["z"].dtype == found["dq"].dtype == dtype
    assert found["W1_last"].dtype == found["dW1"].dtype == found["deta"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("on_chip", [False, True])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_both_forward_kernels_of_ttt_mlp_are_the_definition(
    dtype: torch.dtype, on_chip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layer, "on_chip", on_chip)
    given = of(Case(64, 256, 16, 32), dtype, heads=1)
    assert_close(results(rotating, given), results(rotated_primal, exact(given)), TOLERANCE[dtype])
    bare = given._replace(W=given.W[::2])
    expected, _ = primal(exact(bare))
    assert_close({"z": triton(bare)[0]}, {"z": expected}, TOLERANCE[dtype])


def test_sizes_whose_state_is_on_chip() -> None:
    kernels = {dtype: Layer(dtype, 64, 16, 256, amd=False).forward(keeps=True).kernel for dtype in HALF_AND_SINGLE}
    assert kernels == {torch.float16: "mlp_forward_on_chip", torch.float32: "mlp_forward"}
    assert Layer(torch.bfloat16, 96, 16, 384).forward(keeps=True).kernel == "mlp_forward"


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("kernel", ["mlp_forward", "mlp_backward"])
def test_blocks_of_any_width_are_the_definition(kernel: str) -> None:
    """128 columns of the hidden width at a time, the choice for half precision at D = 64; here at a small D."""
    given = of(Case(32, 128, 8, 16), heads=1)
    expected = results(rotated_primal, exact(given))
    with using({kernel: Choice(8, 128)}):
        wide = results(rotating, given)
    assert_close(wide, expected, TOLERANCE[torch.float32])
    assert not all(map(torch.equal, wide.values(), results(rotating, given).values())), "the choice was used"


@pytest.mark.parametrize(
    ("triton_version", "numpy_version", "works"),
    [("3.6.0", "2.4.6", False), ("3.6.0", "2.3.5", True), ("3.7.1", "2.4.6", True), ("3.6.0+git", "2.10.0", False)],
)
def test_an_interpreter_that_needs_an_older_numpy_is_named(
    triton_version: str, numpy_version: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "INTERPRETED", True)
    monkeypatch.setattr(op.triton, "__version__", triton_version)
    monkeypatch.setattr(op.numpy, "__version__", numpy_version)
    reason = unsupported(16, (), 4, torch.float32)
    if works:
        assert reason is None
    else:
        assert reason == (
            f"TRITON_INTERPRET=1 with triton {triton_version} needs numpy below 2.4, not {numpy_version}; "
            "install numpy<2.4 or triton>=3.7"
        )


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_sizes(poisoned: None, data: st.DataObject) -> None:  # noqa: ARG001
    dtype, group = data.draw(st.sampled_from(HALF_AND_SINGLE), "type"), data.draw(st.integers(0, 5), "group")
    # LN over few coordinates yields little more than their signs. In its derivatives, and in sums over few tokens,
    # terms cancel.
    D = data.draw(st.integers(16, 36), "D")
    F = 16 * data.draw(st.integers(0, 3), "F / 16")
    b, mini_batches = data.draw(st.integers(4, 20), "b"), data.draw(st.integers(1, 2), "mini-batches")
    kernel, definition = data.draw(st.sampled_from([(triton, primal), (rotating, rotated_primal)]), "rotates")
    D += D % 2 if kernel is rotating else 0
    given = of(Case(D, F, b, mini_batches * b), dtype, 1, data.draw(st.integers(1, 2), "H"))
    assert_close(results(lambda a: kernel(a, group), given), results(definition, exact(given)), TOLERANCE[dtype])


@pytest.mark.parametrize("group", [1, 3, 10**6])
def test_any_group_gives_the_same_bytes(group: int) -> None:
    given = of(SMALL[0])
    grouped = results(lambda a: triton(a, group), given)
    for name, x in results(triton, given).items():
        assert torch.equal(x, grouped[name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_undoing_the_steps_of_a_long_group_restores_its_first_state(dtype: torch.dtype) -> None:
    """TTT-MLP's backward pass computes W before each mini-batch from W after it, here 64 times in a row."""
    given = of(Case(16, 32, 8, 512), dtype, heads=1)
    assert_close(results(lambda a: triton(a, 64), given), results(primal, exact(given)), TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 3, 10**6])
def test_groups_of_ttt_mlp_differ_by_rounding(group: int) -> None:
    given = of(SMALL[1])
    assert_close(
        results(lambda a: triton(a, group), given),
        {name: x.double() for name, x in results(triton, given).items()},
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_without_gradients_the_numbers_are_the_same_and_nothing_is_kept(case: Case) -> None:
    given = of(case)
    z, W_last = triton(given)
    with torch.no_grad():
        z_alone, W_alone = triton(given)
    assert z_alone.grad_fn is None
    assert torch.equal(z, z_alone)
    assert all(map(torch.equal, W_last, W_alone))
    arguments_of_op = [[w.detach() for w in given.W], *given.map(Tensor.detach)[1:], None, 2]
    assert all(x.numel() == 0 for x in torch.ops.ttt_triton.forward(*arguments_of_op, True, False)[2])
    kept = torch.ops.ttt_triton.forward(*arguments_of_op, True, True)[2]
    assert [x.shape for x in kept] == [(2, *w.shape) for w in given.W], "W once for each group"


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_layouts_do_not_matter(case: Case) -> None:
    given = of(case, batch=2)
    dense = given.map(lambda x: x.detach().contiguous().requires_grad_())
    strided = given.map(lambda x: x.detach().transpose(-1, 0).contiguous().transpose(-1, 0).requires_grad_())
    expected = results(triton, dense)
    for other in (given, strided):
        for name, x in results(triton, other).items():
            assert torch.equal(x, expected[name]), name
    z, _ = triton(dense)
    assert z.transpose(1, 2).is_contiguous(), "merging the heads costs nothing"


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_one_initial_state_for_all_sequences(case: Case) -> None:
    given = of(case, batch=2)
    shared = given._replace(W=tuple(w[0].detach().requires_grad_() for w in given.W))

    def of_all(kernel, given: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:  # type: ignore[no-untyped-def]
        return kernel(given._replace(W=tuple(w.expand(2, *w.shape) for w in given.W)))

    found = results(lambda a: of_all(triton, a), shared)
    assert_close(found, results(lambda a: of_all(primal, a), exact(shared)), TOLERANCE[torch.float32])


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_without_biases(case: Case) -> None:
    given = of(case)
    bare = given._replace(W=given.W[::2])

    def with_zeros(kernel, given: Arguments) -> tuple[Tensor, tuple[Tensor, ...]]:  # type: ignore[no-untyped-def]
        # At first a zero bias equals no bias, but it is updated.
        zeros = [torch.zeros_like(w[:, :, :1]) for w in given.W]
        return kernel(given._replace(W=tuple(x for pair in zip(given.W, zeros, strict=True) for x in pair)))

    double = exact(bare)
    found, expected = results_without_biases(triton, bare), results_without_biases(primal, double)
    assert_close(found, expected, TOLERANCE[torch.float32])
    biased, _ = with_zeros(triton, bare)
    assert not torch.equal(biased, triton(bare)[0]), "biases would learn"


def results_without_biases(kernel, given: Arguments) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    z, W_last = kernel(given)
    leaves = given.tensors()
    functional = z.double().sin().sum() + sum(w.double().sin().sum() for w in W_last)
    gradients = torch.autograd.grad(functional, leaves)
    return {"z": z} | {str(i): x for i, x in enumerate((*W_last, *gradients))}


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_any_subset_of_gradients(case: Case) -> None:
    given = of(case)
    for i, name in enumerate(["q", "k"]):
        constant = given.map(Tensor.detach)
        leaf = constant[3 + i].requires_grad_()
        (single,) = torch.autograd.grad(triton(constant)[0].sum(), leaf)
        (one_of_all,) = torch.autograd.grad(triton(given)[0].sum(), given[3 + i])
        assert torch.equal(single, one_of_all), name
    (only_state,) = torch.autograd.grad(triton(given)[1][0].sum(), given.v)
    assert only_state.abs().max() > 0


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_loop_that_diverged_is_seen(case: Case) -> None:
    given = of(case, batch=2).map(Tensor.detach)
    given.k[0, 1, 7] = float("nan")
    z, W_last = triton(given)
    assert z[0, 1, 10:].isnan().all()
    assert all(w[0, 1].isnan().any() for w in W_last)
    assert z[1].isfinite().all()
    assert z[0, 0].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_torch_finds_nothing_wrong_with_the_operators(case: Case) -> None:
    given, ops = of(case._replace(tokens=5), heads=1), torch.ops.ttt_triton
    table = rotation(given)
    torch.library.opcheck(ops.forward.default, (list(given.W), *given[1:], table, 3, True, True))
    W, *others = given.map(Tensor.detach)
    others.append(table)
    z, W_last, kept = ops.forward(list(W), *others, 3, True, True)
    torch.library.opcheck(ops.backward.default, (torch.ones_like(z), W_last, kept, list(W), *others, 3, True))


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_compiled_function_calls_it_without_a_break(case: Case) -> None:
    given = of(case)
    fused = torch.compile(lambda a: triton(a), backend="aot_eager", fullgraph=True)
    expected = results(triton, given)
    for name, x in results(fused, given).items():
        assert torch.equal(x, expected[name]), name


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_no_tokens_change_nothing(case: Case) -> None:
    given = of(case._replace(tokens=0))
    z, W_last = triton(given)
    assert z.shape[2] == 0
    assert all(map(torch.equal, W_last, given.W))
    upstream = torch.ones_like(W_last[0])
    assert torch.equal(torch.autograd.grad(W_last[0], given.W[0], upstream)[0], upstream)


def test_a_second_derivative_is_refused() -> None:
    given = of(SMALL[0])
    (dq,) = torch.autograd.grad(triton(given)[0].sum(), given.q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        dq.sum().backward()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda a: a._replace(k=a.k[:, :, :-5]), "q, k and v differ"),
        (lambda a: a._replace(k=a.k.half()), "q, k and v differ"),
        (lambda a: a._replace(tau=a.tau[:4]), "not a multiple of 4"),
        (lambda a: a._replace(eta=a.eta.mT), "expected shape"),
        (lambda a: a._replace(W=a.W[:3]), "expected shape|tensors"),
        (lambda a: a._replace(W=tuple(w[:, :1] for w in a.W)), "expected shape"),
        (lambda a: a._replace(W=(a.W[0][..., :8], *a.W[1:])), "multiple of 16"),
        (lambda a: a._replace(scale=a.scale.half()), "expected float32"),
        (lambda a: a._replace(tau=a.tau.to("meta")), "different devices"),
        (exact, "float64"),
    ],
)
def test_wrong_sizes_and_types_do_not_reach_a_kernel(wrong, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RuntimeError, match=message):
        triton(wrong(of(SMALL[1])))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((128, (512,), 64, torch.float32), None),
        ((1, (), 1, torch.float16), None),
        ((129, (), 16, torch.float32), "head widths up to 128"),
        ((64, (40,), 16, torch.float32), "multiple of 16"),
        ((64, (256, 256), 16, torch.float32), "one hidden layer"),
        ((64, (), 65, torch.float32), "up to 64 tokens"),
        ((64, (), 16, torch.float64), "not torch.float64"),
    ],
)
def test_supported_sizes(sizes: tuple[int, tuple[int, ...], int, torch.dtype], reason: str | None) -> None:
    found = unsupported(*sizes)
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


@pytest.mark.parametrize(
    ("sizes", "kilobytes", "needed"),
    [
        ((128, (512,), 64, torch.float32), 227, 240),
        ((100, (), 40, torch.float32), 163, 208),
        ((128, (), 64, torch.float32), 227, None),
        ((128, (), 64, torch.bfloat16), 99, 112),
        ((128, (512,), 64, torch.float16), 99, None),
        ((64, (256,), 16, torch.float32), 99, None),
    ],
)
def test_sizes_that_exceed_shared_memory_are_refused_by_name(
    sizes: tuple[int, tuple[int, ...], int, torch.dtype],
    kilobytes: int,
    needed: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(op, "INTERPRETED", False)
    monkeypatch.setattr(op, "_shared_memory", lambda _: 1024 * kilobytes)
    found = unsupported(*sizes, torch.device("cuda"))
    if needed is None:
        assert found is None
    else:
        D, _, b, dtype = sizes
        assert found == (
            f"head width {D}, b = {b} and {dtype} need {needed} KB of shared memory, but cuda has {kilobytes}; "
            "use half precision or a smaller mini-batch"
        )
