"""Layer normalisation of the inner model's output, and its gradient in closed form.

Shapes: ... any batch axes, D head width. Scale and shift broadcast against [..., T, D].
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-6


class LayerNormParams(NamedTuple):
    """Outer-loop scale and shift, each [H, 1, D]."""

    scale: Tensor
    shift: Tensor


def standardise(x: Tensor) -> tuple[Tensor, Tensor]:
    """X with mean 0 and variance 1 over D, and the reciprocal standard deviation [..., 1] that was used."""
    centred = x - x.mean(-1, keepdim=True)
    reciprocal_std = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)
    return centred * reciprocal_std, reciprocal_std


def layer_norm(x: Tensor, norm: LayerNormParams) -> Tensor:
    """LN(x) = scale * standardise(x) + shift, over the last axis."""
    return norm.scale * standardise(x)[0] + norm.shift


def standardised_gradient(x: Tensor, target: Tensor, norm: LayerNormParams) -> Tensor:
    """Gradient with respect to x of 1/2 || LN(x) - target ||^2, per token."""
    unit, reciprocal_std = standardise(x)
    upstream = (norm.scale * unit + norm.shift - target) * norm.scale
    centred = upstream - upstream.mean(-1, keepdim=True)
    return (centred - unit * (upstream * unit).mean(-1, keepdim=True)) * reciprocal_std
