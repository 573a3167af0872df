"""Recording inner loops does not change a model, and diagnosis names the inner loop that diverged."""

import pytest
import torch
from torch import Tensor

from ttt.config.layers import TTTConfig
from ttt.config.schema import BackboneConfig, KernelConfig, SizeConfig
from ttt.layers.diagnose import find_divergence
from ttt.layers.observing import record_inner_loops, ttt_layers
from ttt.layers.state import READ_CHUNK
from ttt.models.build import build_model
from ttt.models.language_model import LanguageModel

V = 50
SIZE = SizeConfig(name="tiny", width=16, blocks=3, heads=2, mlp_hidden=32, init_std=0.25)


def make_model(seed: int = 0, **switches: object) -> LanguageModel:
    config = TTTConfig(name="ttt_linear", inner_model="linear", **switches)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    return build_model(config, SIZE, BackboneConfig("mamba"), KernelConfig("dual"), V)


def make_ids(tokens: int, B: int = 2) -> Tensor:
    return torch.randint(0, V, (B, tokens), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_recording_gives_the_models_numbers_and_leaves_it_unchanged() -> None:
    model, ids = make_model(mini_batch_size=4), make_ids(11)
    kernels, plain = [layer.kernel for layer in ttt_layers(model)], model(ids)
    with record_inner_loops(model) as seen:
        torch.testing.assert_close(model(ids), plain, rtol=1e-4, atol=1e-5)
    assert len(kernels) == len(seen) == 3
    assert all(value.shape == (2, 2, 11) for observation in seen for value in observation)
    torch.testing.assert_close(seen[1].loss_initial[..., 0], seen[1].loss_before[..., 0])
    assert [layer.kernel for layer in ttt_layers(model)] == kernels
    assert torch.equal(model(ids), plain)


def test_kernels_are_put_back_after_an_error() -> None:
    model = make_model()
    kernels = [layer.kernel for layer in ttt_layers(model)]
    with pytest.raises(IndexError), record_inner_loops(model):
        model(torch.tensor([[V]]))
    assert [layer.kernel for layer in ttt_layers(model)] == kernels


@pytest.mark.parametrize("b", [1, 4, 16])
@torch.no_grad()
def test_the_layer_head_and_mini_batch_that_diverge_are_named(b: int) -> None:
    model = make_model(mini_batch_size=b)
    assert find_divergence(model, make_ids(40)) is None
    ttt_layers(model)[1].W_init["W1"][1] = 1e38
    found = find_divergence(model, make_ids(40))
    assert found is not None
    assert (found.layer, found.head, found.mini_batch, found.first, found.last) == (2, 1, 1, 1, b)
    tokens = "token 1" if b == 1 else f"tokens 1 to {b}"
    assert str(found) == f"the inner loop of layer 2, head 1 diverged in mini-batch 1 ({tokens})"


@pytest.mark.slow
@pytest.mark.parametrize(("b", "eta_base"), [(1, 7.5), (1, 24.0), (4, 16.0), (4, 200.0)])
@torch.no_grad()
def test_the_mini_batch_is_that_of_the_first_numbers_that_are_lost(b: int, eta_base: float) -> None:
    model = make_model(mini_batch_size=b, eta_base=eta_base, norm=False, learnable_norm=False)
    ids = make_ids(READ_CHUNK + 300)
    lost = int((~model(ids).isfinite()).any(2).any(0).nonzero()[0]) + 1
    found = find_divergence(model, ids)
    assert found is not None
    # Squares overflow a few tokens before the numbers do.
    assert lost - 32 < found.first <= lost
    assert ((found.mini_batch - 1) * b + 1, found.mini_batch * b) == (found.first, found.last)
    assert model(ids[:, : found.first - 32]).isfinite().all()


@torch.no_grad()
def test_no_inner_loop_is_blamed_for_its_inputs() -> None:
    model = make_model()
    model.embedding.weight[3] = float("nan")
    assert not model(make_ids(40)).isfinite().all()
    assert find_divergence(model, make_ids(40)) is None
    model = make_model()
    model.norm.weight[0] = float("inf")
    assert find_divergence(model, make_ids(40)) is None
