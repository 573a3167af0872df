"""RoPE within the kernels: tiles of Q and K are rotated after they are loaded, dQ and dK back before they are stored.

The angles depend on the place in the mini-batch alone, so one table serves all mini-batches: its row i, [D] float32,
has cos, sin, cos, sin, ... of the D / 2 angles of place i. A thread has both numbers of a pair (2 j, 2 j + 1), where a
tile is loaded as where a product leaves it, so that rotating exchanges nothing between threads.

A tile that products read is rotated at the end of the iteration before. Triton follows the factors of a product back to
where the iteration begins, takes ``join`` for the unpacking of 4-bit numbers, and would load the factors from shared
memory in narrow pieces: by the latency model up to 27% more cycles instead of 3%.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import load


@triton.jit
def load_rotation(rotation, o, m, PADDED: tl.constexpr, ROTATES: tl.constexpr):
    """Return the cosines and sines at the offsets ``o`` of the table, one for each pair; zeros without ROTATES."""
    cos, sin = 0.0, 0.0
    if ROTATES:
        cos, sin = tl.split(pairs(load(rotation + o, m, PADDED)))
    return cos, sin


@triton.jit
def rotate(x, cos, sin, ROTATES: tl.constexpr):
    """Return ``x`` with its pairs rotated, in float32, rounded to its type; ``-sin`` rotates back.

    Without ROTATES return ``x``.
    """
    if ROTATES:
        even, odd = tl.split(pairs(x.to(tl.float32)))
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), x.shape).to(x.dtype)
    return x


@triton.jit
def pairs(x):
    """Return ``x`` as [numbers / 2, 2]."""
    return tl.reshape(x, (x.numel // 2, 2))
