import pytest
import torch
import torch.nn.functional as F

from ttt.backbones import modules
from ttt.backbones.modules import SwiGLU


@pytest.mark.parametrize("longest_part", [5, 4096])
def test_swiglu_is_its_formula_with_every_gradient(longest_part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "LONGEST_PART", longest_part)
    torch.manual_seed(0)
    module = SwiGLU(width=6, hidden=10, init_std=0.5).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    plain = module.down(F.silu(module.gate(x)) * module.up(x))
    inputs = [x, *module.parameters()]
    results = [(y, *torch.autograd.grad(y.sin().sum(), inputs)) for y in (module(x), plain)]
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("longest_part", [5, 4096])
def test_swiglu_under_autocast_has_the_gradients_of_its_formula(
    longest_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "LONGEST_PART", longest_part)
    torch.manual_seed(0)
    module = SwiGLU(width=6, hidden=10, init_std=0.5)
    inputs = [torch.randn(2, 7, 6, requires_grad=True), *module.parameters()]
    results = []
    for form in (module, lambda x: module.down(F.silu(module.gate(x)) * module.up(x))):
        with torch.autocast("cpu", torch.bfloat16):
            y = form(inputs[0])
        assert y.dtype == torch.bfloat16
        results.append(torch.autograd.grad(y.float().sin().sum(), inputs))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
