"""The Mamba mixer agrees with transformers' mixer; its initial values and the choice of the scan."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MambaConfig as TheirConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from ttt.config.layers import MambaConfig
from ttt.config.schema import KernelConfig
from ttt.layers import mamba_kernels
from ttt.layers.mamba import Mamba, choose_scan, plain_scan
from ttt.layers.registry import LayerSpec, build_layer

WIDTH, TOKENS = 24, 70
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
AUTO, PLAIN = KernelConfig("auto"), KernelConfig("dual")


def make_mamba(width: int = WIDTH, depth: int = 1, init_std: float = 0.3) -> Mamba:
    torch.manual_seed(0)
    layer = build_layer(MambaConfig(name="mamba"), LayerSpec(width, heads=4, init_std=init_std, depth=depth))
    assert isinstance(layer, Mamba)
    return layer


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_outputs_and_gradients_agree_with_transformers() -> None:
    ours = make_mamba()
    theirs = MambaMixer(TheirConfig(hidden_size=WIDTH, use_mambapy=False), layer_idx=0)
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


def test_projections_start_as_in_the_package() -> None:
    """Its ``nn.Linear`` are uniform in +-inputs^-0.5; ``_init_weights`` divides out_proj by the root of the depth."""
    torch.manual_seed(0)
    config = MambaConfig(name="mamba", projection_init="uniform")
    layer = build_layer(config, LayerSpec(128, heads=4, init_std=0.02, depth=9)).requires_grad_(False)
    assert isinstance(layer, Mamba)
    for projection, bound in ((layer.in_proj, 128**-0.5), (layer.x_proj, 256**-0.5), (layer.out_proj, 256**-0.5 / 3)):
        assert projection.weight.abs().max() == pytest.approx(bound, rel=0.01)
        assert projection.weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_a_token_changes_nothing_before_itself() -> None:
    layer = make_mamba().double()
    x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)
    changed = x.clone()
    changed[:, 30] += 1
    (before, _), (after, _) = layer(x), layer(changed)
    torch.testing.assert_close(after[:, :30], before[:, :30], rtol=0, atol=1e-12)
    assert (after[:, 30:] != before[:, 30:]).any(dim=-1).all()


def test_initial_values_are_the_authors() -> None:
    layer = make_mamba(width=256, depth=4, init_std=0.02)
    assert layer.A_log.exp()[7].tolist() == pytest.approx(range(1, 17))
    assert (layer.D == 1).all()
    delta = F.softplus(layer.dt_proj.bias)
    assert delta.min() > 0.99e-3
    assert delta.max() < 0.101
    assert delta.log().mean().item() == pytest.approx(torch.tensor([1e-3, 1e-1]).log().mean().item(), abs=0.2)
    assert layer.dt_proj.weight.abs().max().item() == pytest.approx(16**-0.5, rel=0.01)


def test_projections_start_with_the_models_deviation() -> None:
    layer = make_mamba(width=256, depth=4, init_std=0.02)
    assert layer.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.x_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.out_proj.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("width", "dt_rank", "rank"), [(24, None, 2), (256, None, 16), (24, 5, 5)])
def test_rank_of_delta(width: int, dt_rank: int | None, rank: int) -> None:
    layer = Mamba(MambaConfig(name="mamba", dt_rank=dt_rank), LayerSpec(width, heads=4))
    assert layer.dt_proj.in_features == rank


def test_bfloat16_stays_near() -> None:
    layer = make_mamba()
    x = torch.randn(2, TOKENS, WIDTH)
    exact, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, state = layer(x)
    assert rounded.dtype == torch.bfloat16
    assert state["h"].dtype == torch.float32
    assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.fixture(autouse=True)
def _fresh_import() -> Iterator[None]:
    """Repeat the import of mamba_ssm in each test."""
    for kernel in (mamba_kernels.scan, mamba_kernels.step):
        kernel.cache_clear()
    yield
    for kernel in (mamba_kernels.scan, mamba_kernels.step):
        kernel.cache_clear()


def reference_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the package's documented formula: u, delta, z (B, E, T); A (E, N); B, C (B, N, T); D, delta_bias (E)."""
    assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
    assert delta_softplus
    assert return_last_state
    delta = F.softplus(delta + delta_bias[:, None])
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        y.append((h * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
    return torch.stack(y, dim=2) * F.silu(z), h


def reference_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    dt_bias: Tensor,
    dt_softplus: bool,
) -> Tensor:
    """Compute the package's documented formula, in place: state (B, E, N); x, dt, z (B, E); B, C (B, N)."""
    assert dt_softplus
    dt = F.softplus(dt + dt_bias)
    state.copy_(torch.exp(dt[:, :, None] * A) * state + (dt * x)[:, :, None] * B[:, None])
    return ((state * C[:, None]).sum(-1) + D * x) * F.silu(z)


@pytest.fixture
def _mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a mamba_ssm package whose kernels are the reference formulas."""
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = reference_selective_scan  # type: ignore[attr-defined]
    update = ModuleType("mamba_ssm.ops.triton.selective_state_update")
    update.selective_state_update = reference_state_update  # type: ignore[attr-defined]
    empty = ("selective_scan_cuda", "mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton")
    for module in (interface, update, *map(ModuleType, empty)):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def scan_inputs(tokens: int) -> list[Tensor]:
    torch.manual_seed(0)
    u, dt, z = torch.randn(3, 2, tokens, 5)
    B, C = torch.randn(2, 2, tokens, 3)
    return [u, dt, -torch.rand(5, 3), B, C, torch.randn(5), z, torch.randn(5)]


@pytest.mark.usefixtures("_mamba_ssm")
def test_the_packages_scan_gets_its_layout() -> None:
    fast = choose_scan(AUTO, CUDA, None, tokens=9)
    assert fast is not plain_scan
    inputs = scan_inputs(9)
    torch.testing.assert_close(fast(*inputs, None), plain_scan(*inputs, None))


@pytest.mark.usefixtures("_mamba_ssm")
@torch.no_grad()
def test_decoding_takes_the_packages_step() -> None:
    fast = choose_scan(AUTO, CUDA, h := torch.randn(2, 5, 3), tokens=1)
    assert fast is not plain_scan
    inputs, before = scan_inputs(1), h.clone()
    torch.testing.assert_close(fast(*inputs, h), plain_scan(*inputs, h))
    assert torch.equal(h, before), "the caller's state stays as it is"


@pytest.mark.usefixtures("_mamba_ssm")
def test_the_packages_kernels_are_for_their_case_only() -> None:
    h = torch.zeros(2, 5, 3)
    assert choose_scan(PLAIN, CPU, None, 9) is plain_scan
    assert choose_scan(AUTO, CUDA, h, 1) is plain_scan, "its step has no gradient"
    with torch.no_grad():
        assert choose_scan(AUTO, CUDA, h, 2) is plain_scan
        assert choose_scan(PLAIN, CPU, h, 1) is plain_scan


@pytest.mark.usefixtures("_mamba_ssm")
@pytest.mark.parametrize("part", ["mamba_ssm", "selective_scan_cuda"])
def test_without_the_package_or_its_compiled_part_cuda_has_the_plain_scan(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setitem(sys.modules, part, None)
    if part == "mamba_ssm":
        monkeypatch.delitem(sys.modules, "mamba_ssm.ops.selective_scan_interface")
    assert choose_scan(AUTO, CUDA, None, 9) is plain_scan
