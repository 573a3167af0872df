"""Activations of inner MLPs, each with its derivative in closed form, which the dual form needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative, which autograd can differentiate again."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def gelu(x: Tensor) -> Tensor:
    """Compute GELU in its tanh form."""
    return F.gelu(x, approximate="tanh")


def gelu_derivative(x: Tensor) -> Tensor:
    """Compute the derivative of ``gelu``."""
    square = x * x
    tanh = torch.tanh(SQRT_2_OVER_PI * x * (1 + GELU_CUBIC * square))
    slope = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * square)
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope


def silu_derivative(x: Tensor) -> Tensor:
    """Compute the derivative of x * sigmoid(x)."""
    sigmoid = torch.sigmoid(x)
    return sigmoid * (1 + x * (1 - sigmoid))


def tanh_derivative(x: Tensor) -> Tensor:
    """Compute the derivative of tanh."""
    return 1 - torch.tanh(x).square()


def relu_derivative(x: Tensor) -> Tensor:
    """Compute the derivative of ReLU, 0 at 0."""
    return (x > 0).to(x.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(gelu, gelu_derivative),
    "relu": Activation(F.relu, relu_derivative),
    "silu": Activation(F.silu, silu_derivative),
    "tanh": Activation(torch.tanh, tanh_derivative),
}
"""``model.activation`` key -> activation."""
