"""Rotary position embedding (RoPE), adjacent pairs rotating together.

Shapes: B batch, H heads, T tokens, D head width.
"""

import torch
from torch import Tensor


def rope_tables(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, D / 2] of the angle ``position * base ** (-2 i / D)`` of pair i.

    Computed in float64 and rounded once, because an angle of 32k radians has few digits left in float32; Apple's
    GPUs know no float64.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=exact)
    angle = positions.to(exact)[:, None] * base ** (-pair / head_dim)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotated(q_BHTD: Tensor, k_BHTD: Tensor, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their ``positions`` [T], in float32 at least; they keep their dtype.

    The tables are made anew on every call: that is 1 % of forward and backward of attention at 512 tokens, and less
    beyond.
    """
    exact = torch.promote_types(q_BHTD.dtype, torch.float32)
    cos, sin = rope_tables(positions, q_BHTD.shape[-1], base, exact)
    return rotate(q_BHTD, cos, sin).to(q_BHTD.dtype), rotate(k_BHTD, cos, sin).to(k_BHTD.dtype)


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (2 i, 2 i + 1) of the last axis by the angles of ``rope_tables``."""
    even, odd = x_BHTD[..., 0::2], x_BHTD[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
