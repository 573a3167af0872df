import torch

from ttt.inner.layer_norm import EPS, LayerNormParams, layer_norm, standardised_gradient


def test_layer_norm_is_torchs() -> None:
    torch.manual_seed(0)
    x, scale, shift = torch.randn(5, 8), torch.randn(8), torch.randn(8)
    expected = torch.nn.functional.layer_norm(x, (8,), scale, shift, EPS)
    torch.testing.assert_close(layer_norm(x, LayerNormParams(scale, shift)), expected)


def test_standardised_gradient_is_autograds() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, 8, dtype=torch.float64)
    norm = LayerNormParams(torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64))
    loss = 0.5 * (layer_norm(x, norm) - target).square().sum()
    torch.testing.assert_close(
        standardised_gradient(x, target, norm), torch.autograd.grad(loss, x)[0], rtol=0, atol=1e-13
    )
