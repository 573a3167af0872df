"""The compiled form as a layer uses it: from any place of a mini-batch, and refused by name where it cannot run."""

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
from ttt.inner.loop import InnerLoop
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.kernels import dispatch
from ttt.kernels.cpu.build import CompilerError
from ttt.kernels.dispatch import choose_form

T = 35
LOOPS = {
    "linear": InnerLoop(InnerMLP()),
    "mlp": InnerLoop(InnerMLP((4,))),
    "without biases": InnerLoop(InnerMLP(bias=False)),
    "mlp without biases": InnerLoop(InnerMLP((4,), bias=False)),
    "not halved": InnerLoop(InnerMLP((1,)), halved_loss=False),
}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_primal_forms_whole(data: st.DataObject) -> None:
    loop = LOOPS[data.draw(st.sampled_from(sorted(LOOPS)), "loop")]
    b, group = data.draw(st.integers(1, T + 2), "b"), data.draw(st.sampled_from([0, 1, 3]), "group")
    ends = data.draw(st.sets(st.integers(1, T - 1), max_size=3), "cuts")
    cuts = [end - start for start, end in pairwise([0, *sorted(ends), T])]
    case = Case(loop, b, T=T, D=16)
    expected = case.run(choose_form(KernelConfig("dual", 0), loop))
    assert_agree(case.run(choose_form(KernelConfig("cpu", group), loop), cuts), expected)


@pytest.mark.parametrize(("asked", "taken"), [(None, 16), (0, 0), (4, 4)])
@pytest.mark.parametrize("name", ["primal", "dual"])
def test_plain_forms_keep_as_many_states_as_asked_for(name: str, asked: int | None, taken: int) -> None:
    form = choose_form(KernelConfig(name, asked), LOOPS["linear"])
    assert form.keywords == {"checkpoint_group": taken}


@pytest.mark.parametrize(("asked", "groups"), [(None, 2), (0, 2), (4, 5)])
def test_the_compiled_form_keeps_a_state_for_so_many_mini_batches(asked: int | None, groups: int) -> None:
    case = Case(LOOPS["linear"], 2, T=34, D=16)
    form = choose_form(KernelConfig("cpu", asked), case.loop)
    z, _ = form(case.loop, case.norm, case.loop.start(case.W_init, 2), case.tokens, case.tau)
    assert any(x.shape[2:3] == (groups,) for x in z.grad_fn.saved_tensors if x.dim() == 4 and x.shape[3] == 16 * 17)


@pytest.mark.parametrize("name", LOOPS)
def test_the_primal_form_agrees(name: str) -> None:
    case = Case(LOOPS[name], 5, T=T, D=16)
    expected = case.run(choose_form(KernelConfig("primal", 0), case.loop))
    assert_agree(case.run(choose_form(KernelConfig("cpu", 2), case.loop)), expected)


@pytest.mark.parametrize(
    ("loop", "reason"),
    [
        (InnerLoop(InnerMLP((4, 4))), "one hidden layer"),
        (InnerLoop(InnerMLP((4,), "silu")), "GELU"),
        (InnerLoop(InnerModule(lambda width: nn.Linear(width, width))), "linear inner models"),
        (InnerLoop(InnerMLP(), norm=False), "LN and residual"),
        (InnerLoop(InnerMLP(), residual=False), "LN and residual"),
        (InnerLoop(InnerMLP(), momentum=0.5), "no momentum"),
    ],
)
def test_other_loops_are_refused_by_name_and_auto_computes_them(loop: InnerLoop, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=cpu: .*{reason}.*; choose auto"):
        choose_form(KernelConfig("cpu"), loop)
    case = Case(loop, 4, T=9)
    expected = case.run(choose_form(KernelConfig("primal"), loop))
    assert_agree(case.run(choose_form(KernelConfig("auto"), loop)), expected)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(LOOPS["linear"], 4, T=8, D=16, forgets=True), "no forget gate"),
        (Case(LOOPS["linear"], 4, T=8, D=12), "head width 12"),
        (Case(LOOPS["linear"], 100, T=100, D=16), "b = 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tokens_that_it_cannot_read_are_refused_by_name(case: Case, reason: str) -> None:
    with pytest.raises(UserError, match=f"kernel.name=cpu: .*{reason}"):
        case.run(choose_form(KernelConfig("cpu"), case.loop))
    expected = case.run(choose_form(KernelConfig("dual"), case.loop))
    assert_agree(case.run(choose_form(KernelConfig("auto"), case.loop)), expected)


def test_without_a_compiler_auto_warns_once_and_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise CompilerError("no c++ found")

    monkeypatch.setattr(dispatch, "load", fail)
    dispatch._no_compiler.cache_clear()
    case = Case(LOOPS["linear"], 4, T=8, D=16)
    expected = case.run(choose_form(KernelConfig("dual"), case.loop))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_agree(case.run(choose_form(KernelConfig("auto"), case.loop)), expected)
    assert [record.getMessage() for record in caplog.records if "no c++ found" in record.getMessage()] != []
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match=r"kernel.name=cpu: .*no c\+\+ found"):
        case.run(choose_form(KernelConfig("cpu"), case.loop))
    dispatch._no_compiler.cache_clear()


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(UserError, match=r"kernel.name=cuda: choose one of auto, primal, dual, cpu"):
        choose_form(KernelConfig("cuda"), LOOPS["linear"])


def test_auto_is_the_compiled_form_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(torch.ops.ttt_cpu, "forward", lambda *_: called.append(True) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Case(LOOPS["linear"], 4, T=8, D=16).outputs(choose_form(KernelConfig("auto"), LOOPS["linear"]))
    assert called
