import pytest
import torch

from ttt.inner.activations import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_autograds(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = torch.linspace(-6, 6, 100, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(activation.function(x).sum(), x)[0]
    torch.testing.assert_close(activation.derivative(x), expected, rtol=0, atol=1e-14)
