"""Primal against dual: outputs, final state and every gradient, with a random learning rate for every token."""

import pytest
import torch
from torch import Tensor

from ttt.inner.dual import dual_mini_batch
from ttt.inner.eta import token_scale
from ttt.inner.layer_norm import LayerNormParams
from ttt.inner.models import InnerMLP
from ttt.inner.primal import primal_mini_batch
from ttt.inner.scan import MiniBatchForm, scan

B, H, T, D = 2, 2, 19, 4
LINEAR, MLP, DEEP = InnerMLP(), InnerMLP(hidden=(4,)), InnerMLP(hidden=(3, 2))
TOLERANCE = 1e-10


def random_inputs(model: InnerMLP, b: int, tokens: int = T) -> dict[str, Tensor]:
    """Everything the inner loop depends on, in float64, each with its own gradient."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {name: normal(B, H, tokens, D) for name in ("q", "k", "v")}
    inputs["eta"] = torch.rand(B, H, tokens, generator=generator, dtype=torch.float64) / D
    inputs["delta"] = 0.3 * normal(b)
    inputs["scale"], inputs["shift"] = 1 + 0.1 * normal(H, 1, D), 0.1 * normal(H, 1, D)
    for name, shape in model.shapes(D).items():
        inputs[name] = 0.5 * normal(H, *shape)
    return {name: value.requires_grad_() for name, value in inputs.items()}


def run(form: MiniBatchForm, model: InnerMLP, inputs: dict[str, Tensor], group: int = 0) -> dict[str, Tensor]:
    """Output, final state, and the gradient of a random functional of both with respect to every input."""
    x = inputs
    W_init = tuple(x[name] for name in model.shapes(D))
    norm = LayerNormParams(x["scale"], x["shift"])
    z, W_last = scan(form, model, W_init, norm, x["q"], x["k"], x["v"], x["eta"], token_scale(x["delta"]), group)
    results = {"z": z} | {f"last {name}": w for name, w in zip(model.shapes(D), W_last, strict=True)}
    generator = torch.Generator().manual_seed(1)
    functional = sum((torch.randn(r.shape, generator=generator, dtype=r.dtype) * r).sum() for r in results.values())
    gradients = torch.autograd.grad(functional, list(inputs.values()))
    return results | {f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True)}


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        error = (actual[name] - value).abs().max() / value.abs().max()
        assert error < TOLERANCE, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("model", [LINEAR, MLP, DEEP], ids=["linear", "mlp", "three layers"])
@pytest.mark.parametrize("b", [1, 4, 16, T, T + 3], ids=lambda b: f"b{b}")
def test_dual_is_primal(model: InnerMLP, b: int) -> None:
    inputs = random_inputs(model, b)
    assert_agree(run(dual_mini_batch, model, inputs), run(primal_mini_batch, model, inputs))


@pytest.mark.parametrize("form", [primal_mini_batch, dual_mini_batch])
@pytest.mark.parametrize("group", [1, 2, 100])
def test_checkpointing_changes_nothing(form: MiniBatchForm, group: int) -> None:
    inputs = random_inputs(MLP, 4)
    assert_agree(run(form, MLP, inputs, group), run(form, MLP, inputs))


@pytest.mark.parametrize("form", [primal_mini_batch, dual_mini_batch])
def test_without_gradients_the_result_is_the_same_and_holds_no_graph(form: MiniBatchForm) -> None:
    inputs = random_inputs(MLP, 4)
    expected = run(form, MLP, inputs)["z"]
    with torch.no_grad():
        W_init = tuple(inputs[name] for name in MLP.shapes(D))
        norm = LayerNormParams(inputs["scale"], inputs["shift"])
        views = (inputs["q"], inputs["k"], inputs["v"])
        z, W_last = scan(form, MLP, W_init, norm, *views, inputs["eta"], token_scale(inputs["delta"]))
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-14)
    assert not any(x.requires_grad for x in (z, *W_last))


@pytest.mark.parametrize("form", [primal_mini_batch, dual_mini_batch])
def test_a_sequence_can_be_cut_at_mini_batches(form: MiniBatchForm) -> None:
    """W after the first piece is all that the second needs."""
    x = random_inputs(LINEAR, 4)
    norm, tau = LayerNormParams(x["scale"], x["shift"]), token_scale(x["delta"])
    views = [x[name] for name in ("q", "k", "v", "eta")]
    whole, _ = scan(form, LINEAR, (x["W1"], x["b1"]), norm, *views, tau)
    _, W = scan(form, LINEAR, (x["W1"], x["b1"]), norm, *(view[:, :, :8] for view in views), tau)
    for sequence in range(B):
        W_then, later = tuple(w[sequence] for w in W), [view[sequence, None, :, 8:] for view in views]
        rest, _ = scan(form, LINEAR, W_then, norm, *later, tau)
        torch.testing.assert_close(rest[0], whole[sequence, :, 8:], rtol=0, atol=1e-13)


def test_one_token_by_hand() -> None:
    """One token, one number: loss 1/2 (k + LN(w k + b) - v)^2 with LN of a single number equal to its shift."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    norm = LayerNormParams(one[0], 0.5 * one[0])
    z, (W, b) = primal_mini_batch(LINEAR, (2 * one, one), norm, 3 * one, one, one, one[..., 0], one[0, 0, 0])
    # The standardised single number is 0 whatever the weights are, so no gradient reaches them.
    assert z.item() == 3.5
    assert (W.item(), b.item()) == (2, 1)


def test_token_scale_is_clamped() -> None:
    delta = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    assert token_scale(delta).tolist() == pytest.approx([1.5, 0.0, 1 / 3])
