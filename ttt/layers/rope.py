"""Rotary position embedding (RoPE) of adjacent pairs.

Shapes: B batch, H heads, T tokens, D head width.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ttt.inner.rotation import rotate


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
def mini_batch_rotations(
    length: int, period: int, head_dim: int, base: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return ``rotations`` of a mini-batch of ``length`` tokens, whose positions restart after every ``period`` tokens.

    They are computed once: a step of decoding needs only one row.
    """
    # A tensor created in inference mode cannot be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return rotations(torch.arange(length, device=device) % period, head_dim, base, dtype)


def rotated(q_BHTD: Tensor, k_BHTD: Tensor, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their ``positions`` [T], in at least float32; they keep their dtype."""
    exact = torch.promote_types(q_BHTD.dtype, torch.float32)
    turn = rotations(positions, q_BHTD.shape[-1], base, exact)
    q, k = rotate(q_BHTD.to(exact), turn), rotate(k_BHTD.to(exact), turn)
    return q.to(q_BHTD.dtype), k.to(k_BHTD.dtype)
