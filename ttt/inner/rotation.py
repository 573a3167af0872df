"""Rotation of the train and test views by RoPE, for kernels that do not rotate them.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs, InnerLoop


def rotated(loop: InnerLoop, offset: int | Tensor, inputs: InnerInputs) -> tuple[InnerLoop, InnerInputs]:
    """Return the loop without its rotation, and the inputs with q and k rotated, in at least float32, in their dtype.

    Args:
        loop: without a rotation both are returned as they are.
        offset: number of tokens since a mini-batch began, or, modulo b, an integer tensor of it.
        inputs: T tokens; the first is at ``offset``.
    """
    if loop.rotation is None:
        return loop, inputs
    places = (offset + torch.arange(inputs.length, device=inputs.q.device)) % loop.mini_batch_size
    turn = loop.rotation[places]
    exact = torch.promote_types(inputs.q.dtype, torch.float32)
    q, k = (rotate(x.to(exact), turn).to(x.dtype) for x in (inputs.q, inputs.k))
    return replace(loop, rotation=None), inputs._replace(q=q, k=k)


def rotate(x_BHTD: Tensor, rotations: Tensor) -> Tensor:
    """Rotate the pairs (2 j, 2 j + 1) of the last axis, float32 or float64, by ``rotations`` [T, D / 2].

    Each pair is rotated by one complex product; real arithmetic takes four times as long.
    """
    # After a convolution, tokens are adjacent in memory instead of the pairs of a head. The copy is in the memory order
    # [B, T, H, D] of a projection's output, which the kernels read without another copy.
    x_BHTD = x_BHTD if x_BHTD.stride(-1) == 1 else x_BHTD.transpose(1, 2).contiguous().transpose(1, 2)
    pairs = torch.view_as_complex(x_BHTD.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotations).flatten(-2)
