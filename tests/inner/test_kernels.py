"""Every kernel agrees with the primal form in outputs, final state and every gradient, for every switch."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_cases import Case, assert_agree

from ttt.inner.dual import dual_mini_batch
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.base import InnerModel
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import InnerKernel, scan

T = 19
LINEAR, MLP, DEEP = InnerMLP(), InnerMLP(hidden=(4,)), InnerMLP(hidden=(3, 2))


def primal(group: int = 0) -> InnerKernel:
    return partial(scan, primal_mini_batch, recompute_group=group)


def dual(group: int = 0) -> InnerKernel:
    return partial(scan, dual_mini_batch, recompute_group=group)


class Gated(torch.nn.Module):
    """An inner model that is not an ``InnerMLP``."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.gate, self.up = torch.nn.Linear(head_dim, 3), torch.nn.Linear(head_dim, 3, bias=False)
        self.down = torch.nn.Linear(3, head_dim)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.gate(u)) * self.up(u))


GATED = InnerModule(Gated)


@pytest.mark.parametrize("model", [LINEAR, MLP, DEEP], ids=["linear", "mlp", "three layers"])
@pytest.mark.parametrize("b", [1, 4, 16, T, T + 3], ids=lambda b: f"b{b}")
def test_dual_is_primal(model: InnerMLP, b: int) -> None:
    case = Case(InnerSpec(model), b)
    assert_agree(case.run(dual()), case.run(primal()))


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_dual_is_primal_for_every_activation(activation: str, bias: bool) -> None:
    case = Case(InnerSpec(InnerMLP((2,), activation, bias)), 4)
    assert_agree(case.run(dual()), case.run(primal()))


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("halved_loss", [True, False])
@pytest.mark.parametrize(("momentum", "forgets"), [(0.0, False), (0.7, False), (0.0, True), (0.7, True)])
def test_dual_is_primal_for_every_switch(
    layer_norm: bool, residual: bool, halved_loss: bool, momentum: float, forgets: bool
) -> None:
    case = Case(InnerSpec(MLP, layer_norm, residual, halved_loss, momentum), 4, T=11, forgets=forgets)
    assert_agree(case.run(dual()), case.run(primal()))


def test_a_long_mini_batch_is_read_in_chunks() -> None:
    case = Case(InnerSpec(LINEAR, momentum=0.5), 150, T=150, forgets=True)
    assert_agree(case.run(dual()), case.run(primal()))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_whole(data: st.DataObject) -> None:
    kernel = data.draw(st.sampled_from([primal(), dual(), dual(2)]), "kernel")
    momentum, forgets = data.draw(st.sampled_from([(0.0, False), (0.7, True)]), "rule")
    case = Case(InnerSpec(MLP, momentum=momentum), data.draw(st.integers(1, T + 2), "b"), forgets=forgets)
    ends = data.draw(st.sets(st.integers(1, T - 1), max_size=T), "cuts")
    places = [0, *sorted(ends), T]
    cuts = [end - start for start, end in pairwise(places)]
    assert_agree(case.run(kernel, cuts), case.run(dual()))


@pytest.mark.parametrize("kernel", [primal, dual])
@pytest.mark.parametrize("group", [1, 2, 100])
@pytest.mark.parametrize(("momentum", "forgets"), [(0.0, False), (0.7, True)])
def test_checkpointing_changes_nothing(kernel, group: int, momentum: float, forgets: bool) -> None:
    case = Case(InnerSpec(MLP, momentum=momentum), 4, forgets=forgets)
    assert_agree(case.run(kernel(group)), case.run(kernel()))


@pytest.mark.parametrize("kernel", [primal(), dual()], ids=["primal", "dual"])
def test_without_gradients_the_result_is_the_same_and_holds_no_graph(kernel: InnerKernel) -> None:
    case = Case(InnerSpec(MLP), 4)
    expected = case.run(kernel)
    with torch.no_grad():
        results = case.outputs(kernel)
    assert_agree(results, {name: expected[name] for name in results}, tolerance=1e-14)
    assert not any(x.requires_grad for x in results.values())


@pytest.mark.parametrize(("module", "same"), [(torch.nn.Linear, LINEAR), (Gated, None)], ids=["linear", "gated"])
def test_any_module_is_an_inner_model(module: type[torch.nn.Module], same: InnerModel | None) -> None:
    """Compare with the token-by-token definition, written out for one head with the module itself."""
    model = InnerModule(module if same is None else lambda head_dim: module(head_dim, head_dim))
    case = Case(InnerSpec(model), 3, T=7)
    assert_agree(case.outputs(primal()), _by_hand(case))


def _by_hand(case: Case) -> dict[str, torch.Tensor]:
    """Compute z for one sequence and head at a time, with the weights copied into the module itself."""
    outputs, last = [], []
    for sequence in range(2):
        for head in range(2):
            module = case.loop.model.build(case.D).double()  # type: ignore[attr-defined]
            W = [w[head].detach() for w in case.W_init]
            q, k, v, eta = (x[sequence, head].detach() for x in case.inputs[:4])
            loop = replace(case.loop, norm=LayerNormParams(*(x[head].detach() for x in case.loop.norm)))
            z, step = [], [torch.zeros_like(w) for w in W]
            for t in range(case.T):
                if t % case.b == 0 and t:
                    W, step = W_t, [torch.zeros_like(w) for w in W]  # noqa: F821 - set at the previous token
                torch.nn.utils.vector_to_parameters(torch.cat([w.flatten() for w in W]), module.parameters())
                loss = loop.losses(module(k[t : t + 1]), k[t : t + 1], v[t : t + 1]).sum()
                gradients = torch.autograd.grad(loss, list(module.parameters()))
                step = [s + eta[t] * g for s, g in zip(step, gradients, strict=True)]
                W_t = [w - loop.tau[t % case.b].detach() * s for w, s in zip(W, step, strict=True)]
                torch.nn.utils.vector_to_parameters(torch.cat([w.flatten() for w in W_t]), module.parameters())
                z.append(loop.output(module(q[t : t + 1]), q[t : t + 1]).detach())
            outputs.append(torch.cat(z))
            last.append([*W, *step])
    states = {
        f"state {n}": torch.stack(values).unflatten(0, (2, 2)) for n, values in enumerate(zip(*last, strict=True))
    }
    return {"z": torch.stack(outputs).unflatten(0, (2, 2))} | states


def test_a_module_draws_its_own_initial_values() -> None:
    torch.manual_seed(0)
    drawn = GATED.initial(heads=3, head_dim=4, std=0.02)
    assert {name: tuple(value.shape[1:]) for name, value in drawn.items()} == GATED.shapes(4)
    assert not torch.equal(drawn["gate_weight"][0], drawn["gate_weight"][1])


def test_one_token_by_hand() -> None:
    """Check one number: loss 1/2 (k + LN(w k + b) - v)^2 with LN of a single number equal to its shift."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    loop = InnerLoop(InnerSpec(LINEAR), LayerNormParams(one[0], 0.5 * one[0]), one[0, 0, 0])
    start = loop.spec.start((2 * one[0], one[0]), batch=1)
    z, state = primal_mini_batch(loop, start, InnerInputs(3 * one, one, one, one[..., 0]))
    # A standardised single number is always 0, so no gradient reaches the weights.
    assert z.item() == 3.5
    assert [w.item() for w in state.W] == [2, 1]


def test_momentum_and_forgetting_by_hand() -> None:
    """Check f(u; w) = w u on single numbers; two tokens of one mini-batch, gradients -v k each at w = 0."""
    spec = InnerSpec(InnerMLP(bias=False), layer_norm=False, residual=False, momentum=0.5)
    keep = torch.tensor([[[0.25, 0.5]]], dtype=torch.float64)
    k, v = (torch.tensor(x, dtype=torch.float64).view(1, 1, 2, 1) for x in ([1.0, 2.0], [3.0, 5.0]))
    inputs = InnerInputs(torch.ones_like(k), k, v, torch.ones_like(keep), keep.log())
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    loop = InnerLoop(spec, LayerNormParams(one, 0 * one), torch.ones(2).double())
    z, state = primal_mini_batch(loop, spec.start((4 * one,), batch=1), inputs)
    # Gradients at w = 4: (4 - 3) 1 = 1 and (8 - 5) 2 = 6. Token 1: m = 1, w = 0.25 * 4 - 1 = 0.
    # Token 2: m = 0.5 + 6 = 6.5, s = 0.5 * 1 + 6.5 = 7, w = 0.25 * 0.5 * 4 - 7.
    assert z.flatten().tolist() == [0.0, -6.5]
    assert state.W[0].item() == -6.5
    assert state.momentum is not None
    assert state.momentum[0].item() == 6.5
