"""What the probe says about W, against the primal form stopped after every token."""

import pytest
import torch
from inner_cases import B, Case, assert_agree
from torch import nn

from ttt.inner.loop import InnerLoop, InnerState, Tokens
from ttt.inner.models.base import Params
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.models.module import InnerModule
from ttt.inner.observe import observe
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import scan

T = 11


class Bottleneck(nn.Module):
    """An inner model that is no MLP of the suite's."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(head_dim, 2), nn.Linear(2, head_dim)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.up(torch.sin(self.down(u)))


def weights(state: InnerState, tau: torch.Tensor) -> Params:
    """W_t, from the definition W_t = kept W - tau_t step."""
    if state.step is None:
        return state.W
    kept = torch.ones(()) if state.kept is None else state.kept[..., None, None]
    return tuple(
        (kept if w.ndim == 4 else kept.reshape(kept.shape[:-1])) * w - tau[state.place - 1] * step
        for w, step in zip(state.W, state.step, strict=True)
    )


def norm_of(P: Params) -> torch.Tensor:
    return sum(p.flatten(2).square().sum(-1) for p in P).sqrt()  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [InnerMLP(), InnerMLP((4,)), InnerModule(Bottleneck)], ids=["linear", "mlp", "own"])
@pytest.mark.parametrize(("momentum", "forgets"), [(0.0, False), (0.7, True)])
@pytest.mark.parametrize("b", [1, 4, 30])
@torch.no_grad()
def test_every_token_is_seen(model: InnerMLP, momentum: float, forgets: bool, b: int) -> None:
    case = Case(InnerLoop(model, momentum=momentum), b, T=T, forgets=forgets)
    state = before = case.loop.start(case.W_init, B)
    outputs, seen = [], []
    for token in case.tokens.split([1] * T):
        z, after = scan(primal_mini_batch, case.loop, case.norm, before, token, case.tau)
        losses = [
            case.loop.losses(case.loop.model(W, token.k), token.k, token.v, case.norm)[..., 0]
            for W in (state.W, weights(before, case.tau), weights(after, case.tau))
        ]
        change = tuple(w - v for w, v in zip(weights(after, case.tau), weights(before, case.tau), strict=True))
        seen.append([*losses, norm_of(change), norm_of(weights(after, case.tau))])
        outputs.append(z)
        before = after
    z, last, observation = observe(case.loop, case.norm, state, case.tokens, case.tau, case.W_init)
    expected = {f"{n}": torch.stack(values, dim=-1) for n, values in enumerate(zip(*seen, strict=True))}
    assert_agree({f"{n}": x for n, x in enumerate(observation)}, expected)
    assert_agree({"z": z}, {"z": torch.cat(outputs, dim=2)})
    for mine, theirs in zip(last.tensors, before.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_it_can_be_streamed() -> None:
    case = Case(InnerLoop(InnerMLP()), 4, T=T)
    start = case.loop.start(case.W_init, B)
    _, _, whole = observe(case.loop, case.norm, start, case.tokens, case.tau, case.W_init)
    parts, state = [], start
    for piece in case.tokens.split([1, 5, 2, 3]):
        assert isinstance(piece, Tokens)
        _, state, observation = observe(case.loop, case.norm, state, piece, case.tau, case.W_init)
        parts.append(observation)
    for name in whole._fields:
        joined = torch.cat([getattr(part, name) for part in parts], dim=2)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=1e-12)
