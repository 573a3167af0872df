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


def test_swiglu_keeps_its_parameters_dtype_under_autocast() -> None:
    module = SwiGLU(width=6, hidden=10, init_std=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(torch.randn(2, 7, 6))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
