"""The compiled kernel as a layer calls it: at any offset of a mini-batch, with an error where it cannot run."""

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_cases import Case, assert_agree
from torch import nn

from ttt.config.errors import UserError
from ttt.config.schema import KernelConfig
from ttt.inner.loop import InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.kernels import dispatch
from ttt.kernels.cpu.build import CompilerError
from ttt.kernels.dispatch import choose_kernel

T = 35
SPECS = {
    "linear": InnerSpec(InnerMLP()),
    "mlp": InnerSpec(InnerMLP((4,))),
    "without biases": InnerSpec(InnerMLP(bias=False)),
    "mlp without biases": InnerSpec(InnerMLP((4,), bias=False)),
    "not halved": InnerSpec(InnerMLP((1,)), halved_loss=False),
}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_whole(data: st.DataObject) -> None:
    spec = SPECS[data.draw(st.sampled_from(sorted(SPECS)), "spec")]
    b, group = data.draw(st.integers(1, T + 2), "b"), data.draw(st.sampled_from([0, 1, 3]), "group")
    ends = data.draw(st.sets(st.integers(1, T - 1), max_size=3), "cuts")
    cuts = [end - start for start, end in pairwise([0, *sorted(ends), T])]
    case = Case(spec, b, T=T, D=16)
    expected = case.run(choose_kernel(KernelConfig("dual", 0), spec))
    assert_agree(case.run(choose_kernel(KernelConfig("cpu", group), spec), cuts), expected)


@pytest.mark.parametrize(("requested", "used"), [(None, 16), (0, 0), (4, 4)])
@pytest.mark.parametrize("name", ["primal", "dual"])
def test_plain_kernels_keep_as_many_states_as_requested(name: str, requested: int | None, used: int) -> None:
    kernel = choose_kernel(KernelConfig(name, requested), SPECS["linear"])
    assert kernel.keywords == {"recompute_group": used}


@pytest.mark.parametrize(("requested", "groups"), [(None, 2), (0, 2), (4, 5)])
def test_the_compiled_kernel_keeps_a_state_per_group_of_mini_batches(requested: int | None, groups: int) -> None:
    case = Case(SPECS["linear"], 2, T=34, D=16)
    kernel = choose_kernel(KernelConfig("cpu", requested), case.spec)
    z, _ = kernel(case.loop, case.spec.start(case.W_init, 2), case.inputs)
    assert any(x.shape[2:3] == (groups,) for x in z.grad_fn.saved_tensors if x.dim() == 4 and x.shape[3] == 16 * 17)


@pytest.mark.parametrize("name", SPECS)
def test_the_primal_form_agrees(name: str) -> None:
    case = Case(SPECS[name], 5, T=T, D=16)
    expected = case.run(choose_kernel(KernelConfig("primal", 0), case.spec))
    assert_agree(case.run(choose_kernel(KernelConfig("cpu", 2), case.spec)), expected)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (InnerSpec(InnerMLP((4, 4))), "one hidden layer"),
        (InnerSpec(InnerMLP((4,), "silu")), "GELU"),
        (InnerSpec(InnerModule(lambda width: nn.Linear(width, width))), "linear inner models"),
        (InnerSpec(InnerMLP(), layer_norm=False), "LN and residual"),
        (InnerSpec(InnerMLP(), residual=False), "LN and residual"),
        (InnerSpec(InnerMLP(), momentum=0.5), "no momentum"),
    ],
)
def test_other_loops_are_refused_by_name_and_auto_computes_them(spec: InnerSpec, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=cpu: .*{reason}.*; choose auto"):
        choose_kernel(KernelConfig("cpu"), spec)
    case = Case(spec, 4, T=9)
    expected = case.run(choose_kernel(KernelConfig("primal"), spec))
    assert_agree(case.run(choose_kernel(KernelConfig("auto"), spec)), expected)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(SPECS["linear"], 4, T=8, D=16, forgets=True), "no forget gate"),
        (Case(SPECS["linear"], 4, T=8, D=12), "head width 12"),
        (Case(SPECS["linear"], 100, T=100, D=16), "b = 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_inputs_are_refused_by_name(case: Case, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=cpu: .*{reason}"):
        case.run(choose_kernel(KernelConfig("cpu"), case.spec))
    expected = case.run(choose_kernel(KernelConfig("dual"), case.spec))
    assert_agree(case.run(choose_kernel(KernelConfig("auto"), case.spec)), expected)


def test_without_a_compiler_auto_warns_once_and_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise CompilerError("no c++ found")

    monkeypatch.setattr(dispatch, "load", fail)
    dispatch._why_no_compiler.cache_clear()
    case = Case(SPECS["linear"], 4, T=8, D=16)
    expected = case.run(choose_kernel(KernelConfig("dual"), case.spec))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_agree(case.run(choose_kernel(KernelConfig("auto"), case.spec)), expected)
    assert [record.getMessage() for record in caplog.records if "no c++ found" in record.getMessage()] != []
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match=r"kernel.name=cpu: .*no c\+\+ found"):
        case.run(choose_kernel(KernelConfig("cpu"), case.spec))
    dispatch._why_no_compiler.cache_clear()


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(UserError, match=r"kernel.name=cuda: choose one of auto, primal, dual, cpu"):
        choose_kernel(KernelConfig("cuda"), SPECS["linear"])


def test_auto_is_the_compiled_kernel_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(torch.ops.ttt_cpu, "forward", lambda *_: called.append(True) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Case(SPECS["linear"], 4, T=8, D=16).outputs(choose_kernel(KernelConfig("auto"), SPECS["linear"]))
    assert called
