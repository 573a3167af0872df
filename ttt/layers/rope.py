"""Rotary position embedding (RoPE) of adjacent pairs.

Shapes: B batch, H heads, T tokens, D head width.
"""

from functools import lru_cache

import torch
from torch import Tensor


def rotations(positions: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> Tensor:
    """Return complex numbers exp(i * angle) [T, D / 2] with the angle ``position * base ** (-2 j / D)`` for pair j.

    Computed in float64 and rounded once to parts of ``dtype``, because float32 leaves few digits for the fraction of an
    angle of 32k radians. Apple's GPUs do not support float64 and use float32.
    """
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=exact)
    angle = positions.to(exact)[:, None] * base ** (-pair / head_dim)
    return torch.complex(angle.cos().to(dtype), angle.sin().to(dtype))


@lru_cache(maxsize=64)
def first_rotations(length: int, head_dim: int, base: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``rotations`` of positions 0 ... length - 1, computed once: a step of decoding needs only one row."""
    # A tensor created in inference mode cannot be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return rotations(torch.arange(length, device=device), head_dim, base, dtype)


def rotated(q_BHTD: Tensor, k_BHTD: Tensor, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their ``positions`` [T], in at least float32; they keep their dtype."""
    exact = torch.promote_types(q_BHTD.dtype, torch.float32)
    turn = rotations(positions, q_BHTD.shape[-1], base, exact)
    q, k = rotate(q_BHTD.to(exact), turn), rotate(k_BHTD.to(exact), turn)
    return q.to(q_BHTD.dtype), k.to(k_BHTD.dtype)


def rotate(x_BHTD: Tensor, rotations: Tensor) -> Tensor:
    """Rotate the pairs (2 j, 2 j + 1) of the last axis, float32 or float64, by ``rotations`` [T, D / 2].

    Each pair is rotated by one complex product; real arithmetic takes four times as long.
    """
    # After a convolution, tokens are adjacent in memory instead of the pairs of a head. The copy is in the memory order
    # [B, T, H, D] of a projection's output, which the kernels read without another copy.
    x_BHTD = x_BHTD if x_BHTD.stride(-1) == 1 else x_BHTD.transpose(1, 2).contiguous().transpose(1, 2)
    pairs = torch.view_as_complex(x_BHTD.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2)
