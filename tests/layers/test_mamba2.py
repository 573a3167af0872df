"""The Mamba-2 mixer agrees with transformers' mixer; its initial values, its states and the package's kernel."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Mamba2Config as TheirConfig
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer, mamba2_chunk_scan

from ttt.config.layers import Mamba2Config
from ttt.config.schema import KernelConfig
from ttt.layers import mamba_kernels
from ttt.layers.mamba2 import KERNELS, Mamba2
from ttt.layers.registry import LayerSpec, build_layer

WIDTH, TOKENS = 24, 70


def make_mamba2(width: int = WIDTH, depth: int = 1, kernel: str = "auto", **values: object) -> Mamba2:
    torch.manual_seed(0)
    config = Mamba2Config(name="mamba2", **values)  # type: ignore[arg-type]
    layer = build_layer(config, LayerSpec(width, heads=4, depth=depth, kernel=KernelConfig(kernel)))
    assert isinstance(layer, Mamba2)
    return layer


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kernel", ["auto", "primal"])
@pytest.mark.parametrize("groups", [1, 4])
def test_outputs_and_gradients_agree_with_transformers(groups: int, kernel: str) -> None:
    ours = make_mamba2(state_size=16, groups=groups, kernel=kernel)
    theirs = Mamba2Mixer(
        TheirConfig(
            hidden_size=WIDTH,
            num_heads=8,
            head_dim=6,
            state_size=16,
            n_groups=groups,
            chunk_size=32,
            num_hidden_layers=1,
        ),
        layer_idx=0,
    )
    theirs.load_state_dict(ours.state_dict())
    x, dy = torch.randn(2, 3, TOKENS, WIDTH)
    x.requires_grad_()

    (y_ours, _), y_theirs = ours(x), theirs(x)
    dx_ours, *ours_grads = torch.autograd.grad(y_ours, [x, *ours.parameters()], dy)
    dx_theirs, *their_grads = torch.autograd.grad(y_theirs, [x, *theirs.parameters()], dy)

    assert_near(y_ours, y_theirs)
    assert_near(dx_ours, dx_theirs)
    expected = dict(zip([name for name, _ in theirs.named_parameters()], their_grads, strict=True))
    for (name, _), gradient in zip(ours.named_parameters(), ours_grads, strict=True):
        assert_near(gradient, expected[name])


def test_initial_values_are_the_packages() -> None:
    layer = make_mamba2(width=256, depth=4, head_dim=2)
    assert 1 <= layer.A_log.exp().min() < 1.5
    assert 15.5 < layer.A_log.exp().max() <= 16
    delta = F.softplus(layer.dt_bias)
    assert 0.99e-3 < delta.min() < delta.max() < 0.101
    assert (layer.D == 1).all()
    for projection, bound in ((layer.in_proj, 256**-0.5), (layer.out_proj, 512**-0.5 / 2)):
        assert projection.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def test_projections_may_start_with_the_models_deviation() -> None:
    layer = make_mamba2(width=256, projection_init="normal")
    assert layer.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.fixture
def _mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a mamba_ssm package whose kernel is transformers' in PyTorch, which has the same arguments."""
    module = ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = mamba2_chunk_scan  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    mamba_kernels.state_space.cache_clear()
    yield
    mamba_kernels.state_space.cache_clear()


@pytest.mark.usefixtures("_mamba_ssm")
def test_the_packages_kernel_gets_its_layout() -> None:
    torch.manual_seed(0)
    u, delta, A, h = torch.randn(2, 9, 4, 6), torch.rand(2, 9, 4), -torch.rand(4), torch.randn(2, 4, 5, 6)
    B, C = torch.randn(2, 2, 9, 2, 5)
    package = mamba_kernels.state_space()
    assert package is not None
    for kernel in (KERNELS.by_token, KERNELS.in_chunks):
        torch.testing.assert_close(package(u, delta, A, B, C, h), kernel(u, delta, A, B, C, h), rtol=1e-4, atol=1e-5)
