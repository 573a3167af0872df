"""Layer normalisation of the inner model's output, and its gradient in closed form.

Shapes: ... any batch axes, T tokens, D head width. Scale and shift broadcast with [..., T, D].
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-6


class LayerNormParams(NamedTuple):
    """Scale and shift, each [H, 1, D], learned by the outer loop."""

    scale: Tensor
    shift: Tensor


def standardise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with mean 0 and variance 1 over D, and the reciprocal standard deviation [..., 1] of x."""
    centred = x - x.mean(-1, keepdim=True)
    reciprocal_std = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)
    return centred * reciprocal_std, reciprocal_std


def layer_norm(x: Tensor, norm: LayerNormParams) -> Tensor:
    """Compute LN(x) = scale * standardise(x) + shift, over the last axis."""
    return norm.scale * standardise(x)[0] + norm.shift


def standardised_gradient(x: Tensor, target: Tensor, norm: LayerNormParams) -> Tensor:
    """Return the gradient of 1/2 || LN(x) - target ||^2 with respect to x, per token."""
    unit, reciprocal_std = standardise(x)
    upstream = (norm.scale * unit + norm.shift - target) * norm.scale
    centred = upstream - upstream.mean(-1, keepdim=True)
    return (centred - unit * (upstream * unit).mean(-1, keepdim=True)) * reciprocal_std
