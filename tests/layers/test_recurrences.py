"""The recurrences in chunks are those token by token: outputs, last state and every gradient, in float64.

The golden numbers of flash-linear-attention, transformers' Mamba-2 and the inner loop of TTT are further witnesses.
"""

import math

import pytest
import torch
from torch import Tensor

from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.loop import InnerInputs, InnerLoop, InnerSpec
from ttt.inner.models.mlp import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import scan
from ttt.layers import decayed_sum, delta_rule
from ttt.layers.chunks import Recurrence
from ttt.layers.decayed_sum import decayed_sum_by_token, decayed_sum_in_chunks
from ttt.layers.delta_rule import delta_rule_by_token, delta_rule_in_chunks, unit_length

B, H, D, V = 2, 3, 8, 6
DECAYS = torch.tensor([0.0, 0.5, 60.0], dtype=torch.float64)
"""One a head: nothing is forgotten, some, and all of it within a few tokens, where a quotient would overflow."""
LENGTHS = [1, 5, 16, 64, 149]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def results(recurrence: Recurrence, inputs: list[Tensor | None]) -> list[Tensor]:
    """Return z, the last S, and the gradients of a fixed random sum of both."""
    learned = [x.detach().requires_grad_() for x in inputs if x is not None]
    given = iter(learned)
    z, S = recurrence(*(None if x is None else next(given) for x in inputs))
    torch.manual_seed(1)
    return [z, S, *torch.autograd.grad((z * normal(*z.shape)).sum() + (S * normal(*S.shape)).sum(), learned)]


def assert_equal(chunks: Recurrence, reference: Recurrence, inputs: list[Tensor | None]) -> None:
    for actual, expected in zip(results(chunks, inputs), results(reference, inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("decay", ["none", "head"])
def test_the_delta_rule_in_chunks(tokens: int, decay: str) -> None:
    torch.manual_seed(0)
    q, k, v = unit_length(normal(B, H, tokens, D)), unit_length(normal(B, H, tokens, D)), normal(B, H, tokens, V)
    # Rates up to 2, for eigenvalues down to -1.
    beta, g = 2 * normal(B, H, tokens).sigmoid(), -DECAYS[:, None] * torch.rand(B, H, tokens, dtype=torch.float64)
    inputs = [q, k, v, beta, None if decay == "none" else g, normal(B, H, D, V)]
    assert_equal(delta_rule_in_chunks, delta_rule_by_token, inputs)


def test_the_delta_rule_with_equal_keys() -> None:
    """All tokens of a chunk write to one place: the powers of their system, but not its solution, would overflow."""
    torch.manual_seed(0)
    k = unit_length(torch.ones(B, H, 100, D, dtype=torch.float64))
    inputs: list[Tensor | None] = [k, k, normal(B, H, 100, V), torch.full((B, H, 100), 0.99).double(), None]
    assert_equal(delta_rule_in_chunks, delta_rule_by_token, [*inputs, normal(B, H, D, V)])


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("decays", [1, D], ids=["head", "row"])
@pytest.mark.parametrize("shared", [False, True])
def test_decayed_sums_in_chunks(tokens: int, decays: int, shared: bool) -> None:
    torch.manual_seed(0)
    q, k = normal(2, B, 1 if shared else H, tokens, D)
    g = -DECAYS[:, None, None] * torch.rand(B, H, tokens, decays, dtype=torch.float64)
    inputs: list[Tensor | None] = [q, k, normal(B, H, tokens, V), g, normal(B, H, D, V)]
    assert_equal(decayed_sum_in_chunks, decayed_sum_by_token, inputs)


@pytest.mark.parametrize("recurrence", [delta_rule_by_token, delta_rule_in_chunks])
def test_the_delta_rule_is_ttt_linear_with_b_1(recurrence: Recurrence) -> None:
    """Check the inner loop of the primal form: f linear, the halved loss, no LN, residual, bias and token scale."""
    torch.manual_seed(0)
    q, k, v, eta = normal(B, H, 70, D), normal(B, H, 70, D), normal(B, H, 70, D), normal(B, H, 70).sigmoid() / D
    spec = InnerSpec(InnerMLP(bias=False), layer_norm=False, residual=False)
    loop = InnerLoop(spec, LayerNormParams(torch.ones(H, 1, D), torch.zeros(H, 1, D)), torch.ones(1).double())
    W = normal(H, D, D)
    z, last = scan(primal_mini_batch, loop, spec.start((W,), B), InnerInputs(q, k, v, eta))
    actual, S = recurrence(q, k, v, eta, None, W.expand(B, -1, -1, -1))
    torch.testing.assert_close(actual, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, last.W[0], rtol=1e-10, atol=1e-10)


def test_no_decay_is_linear_attention() -> None:
    torch.manual_seed(0)
    q, k, v = normal(3, B, H, 70, D)
    z, S = decayed_sum_in_chunks(q, k, v, torch.zeros(B, H, 70, 1), torch.zeros(B, H, D, D))
    torch.testing.assert_close(z, (q @ k.mT).tril() @ v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(S, k.mT @ v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_summed_in_float32(dtype: torch.dtype) -> None:
    ones = torch.ones(1, 1, 3000, 1)
    z, S = decayed_sum_in_chunks(*(ones.to(dtype),) * 3, torch.zeros_like(ones), torch.zeros(1, 1, 1, 1))
    assert (z.dtype, S.dtype) == (dtype, torch.float32)
    assert S.item() == 3000


@pytest.mark.parametrize("module", [decayed_sum, delta_rule])
def test_the_length_of_chunks_changes_nothing(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = unit_length(normal(3, 1, 2, 50, D))
    g = -torch.rand(1, 2, 50, dtype=torch.float64)

    def last_states() -> list[Tensor]:
        S = torch.zeros(1, 2, D, D, dtype=torch.float64)
        of_rule = delta_rule_in_chunks(q, k, v, g.exp(), g, S)
        of_sum = decayed_sum_in_chunks(q, k, v, g[..., None], S)
        return [*of_rule, *of_sum]

    expected = last_states()
    monkeypatch.setattr(module, "CHUNK", 7)
    torch.testing.assert_close(last_states(), expected, rtol=1e-10, atol=1e-10)
    assert math.isfinite(sum(x.sum().item() for x in expected))
