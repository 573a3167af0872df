"""Observations of W equal the results of the primal form stopped after every token."""

import pytest
import torch
from inner_cases import B, Case, assert_agree
from torch import nn

from ttt.inner.loop import InnerInputs, InnerSpec, InnerState
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.inner.observe import observe
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import scan

T = 11


class Bottleneck(nn.Module):
    """An inner model that is not an ``InnerMLP``."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(head_dim, 2), nn.Linear(2, head_dim)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.up(torch.sin(self.down(u)))


def weights(state: InnerState, tau: torch.Tensor) -> Params:
    """Return W_t, from the definition W_t = decay W - tau_t grad_sum."""
    if state.grad_sum is None:
        return state.W
    decay = torch.ones(()) if state.decay is None else state.decay[..., None, None]
    return tuple(
        (decay if w.ndim == 4 else decay.reshape(decay.shape[:-1])) * w - tau[state.offset - 1] * step
        for w, step in zip(state.W, state.grad_sum, strict=True)
    )


def norm_of(P: Params) -> torch.Tensor:
    return sum(p.flatten(2).square().sum(-1) for p in P).sqrt()  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [InnerMLP(), InnerMLP((4,)), InnerModule(Bottleneck)], ids=["linear", "mlp", "own"])
@pytest.mark.parametrize(("momentum", "forgets"), [(0.0, False), (0.7, True)])
@pytest.mark.parametrize("b", [1, 4, 30])
@torch.no_grad()
def test_every_token_is_seen(model: InnerMLP, momentum: float, forgets: bool, b: int) -> None:
    case = Case(InnerSpec(model, momentum=momentum), b, T=T, forgets=forgets)
    tau, state = case.loop.tau, case.spec.start(case.W_init, B)
    before = state
    outputs, seen = [], []
    for token in case.inputs.split([1] * T):
        z, after = scan(primal_mini_batch, case.loop, before, token)
        losses = [
            case.loop.losses(case.loop.model(W, token.k), token.k, token.v)[..., 0]
            for W in (state.W, weights(before, tau), weights(after, tau))
        ]
        change = tuple(w - v for w, v in zip(weights(after, tau), weights(before, tau), strict=True))
        seen.append([*losses, norm_of(change), norm_of(weights(after, tau))])
        outputs.append(z)
        before = after
    z, last, observation = observe(case.loop, state, case.inputs, case.W_init)
    expected = {f"{n}": torch.stack(values, dim=-1) for n, values in enumerate(zip(*seen, strict=True))}
    assert_agree({f"{n}": x for n, x in enumerate(observation)}, expected)
    assert_agree({"z": z}, {"z": torch.cat(outputs, dim=2)})
    for mine, theirs in zip(last.tensors, before.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_it_can_be_streamed() -> None:
    case = Case(InnerSpec(InnerMLP()), 4, T=T)
    start = case.spec.start(case.W_init, B)
    _, _, whole = observe(case.loop, start, case.inputs, case.W_init)
    parts, state = [], start
    for chunk in case.inputs.split([1, 5, 2, 3]):
        assert isinstance(chunk, InnerInputs)
        _, state, observation = observe(case.loop, state, chunk, case.W_init)
        parts.append(observation)
    for name in whole._fields:
        joined = torch.cat([getattr(part, name) for part in parts], dim=2)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=1e-12)
