"""Gradient checkpointing of the inner loop gives the gradients of the plain computation."""

import torch
from torch import Tensor

from ttt.inner.recompute import recompute


def with_a_constant(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs of which one depends on no input that needs a gradient, as a bias of W_0 = 0 without updates."""
    return x.square() * start, start * 1.0, x.sin()


def test_an_output_that_needs_no_gradient_is_left_out() -> None:
    x, start = torch.randn(4, dtype=torch.float64, requires_grad=True), torch.ones(4, dtype=torch.float64)

    def gradient(outputs: tuple[Tensor, ...]) -> Tensor:
        (found,) = torch.autograd.grad(sum(output.sum() for output in outputs), (x,))
        return found

    plain = gradient(with_a_constant(x, start))
    torch.testing.assert_close(gradient(recompute(with_a_constant, x, start)), plain, rtol=0, atol=0)
