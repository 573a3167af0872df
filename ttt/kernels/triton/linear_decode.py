"""TTT-Linear, one token: z, and the state after it.

The state is as in ``ttt.inner.loop.InnerState``: W at the start of the mini-batch and the sum of eta_j grad loss_j
since then. So any other kernel can continue the sequence. The kernel reads the token's place in its mini-batch from
memory and writes either W or the sum, so that a CUDA graph of one token computes all of them. The new state may be
written over the old one.

Shapes: B batch, H heads, D head width, b mini-batch size; P is D padded to a power of two.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import load, loss_gradient, standardise, store
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit(do_not_specialize=["size", "heads", "shared"])
def linear_decode(
    q, k, v, eta, tau, scale, shift, rotation, place,
    W1, b1, W1_sum, b1_sum, z, W1_next, b1_next, W1_sum_next, b1_sum_next,
    size, heads, shared,
    D: tl.constexpr, P: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr
):  # fmt: skip
    """Compute W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W) and z = f(q; W_i) for one token.

    The arguments of ``linear_forward`` for one token, q [B, H, D], eta [B, H], W at the start of the mini-batch, and:
        place: number of earlier tokens, one int32; modulo b it is i - 1.
        W1_sum: sum over the earlier tokens of the mini-batch, [B, H, D, D], not read if there are none.
        b1_sum: likewise for the bias, [B, H, D].
        W1_next: [B, H, D, D], written at the last token of a mini-batch: W1 of the next one.
        b1_next: likewise for the bias, [B, H, D].
        W1_sum_next: [B, H, D, D], written at every other token: the sum including it.
        b1_sum_next: likewise for the bias, [B, H, D].
        size: b.
    All of W, the sums and what is written have one type, float32 or half precision, and are computed in float32. A
    tensor that is written may be the one that is read.
    """
    i_program = tl.program_id(0)
    i_head = i_program % heads
    o_d = tl.arange(0, P)
    PADDED: tl.constexpr = P != D
    m_d = o_d < D
    m_td, m_W1 = m_d[None, :], m_d[:, None] & m_d[None, :]
    i_start = (i_program * (1 - shared) + i_head * shared).to(tl.int64)
    i_own = i_program.to(tl.int64)  # offsets of W can exceed int32
    i_place = tl.load(place) % size
    begun, ends, goes_on = i_place > 0, i_place + 1 == size, i_place + 1 < size
    o_W1 = o_d[:, None] * D + o_d[None, :]
    b_W1 = load(W1 + i_start * D * D + o_W1, m_W1, PADDED).to(tl.float32)
    b_b1 = load(b1 + i_start * D + o_d, m_d, PADDED).to(tl.float32)
    b_W1_sum = load(W1_sum + i_own * D * D + o_W1, m_W1 & begun, True).to(tl.float32)
    b_b1_sum = load(b1_sum + i_own * D + o_d, m_d & begun, True).to(tl.float32)
    b_cos, b_sin = load_rotation(rotation + i_place * D, o_d, m_d, PADDED, ROTATES)
    b_K = rotate(load(k + i_own * D + o_d, m_d, PADDED), b_cos, b_sin, ROTATES).to(tl.float32)
    b_Q = rotate(load(q + i_own * D + o_d, m_d, PADDED), b_cos, b_sin, ROTATES).to(tl.float32)
    b_target = load(v + i_own * D + o_d, m_d, PADDED).to(tl.float32) - b_K
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)
    b_Z = tl.sum(b_K[:, None] * b_W1, 0) + b_b1
    b_G = loss_gradient(b_Z[None, :], b_target[None, :], b_scale[None, :], b_shift[None, :], m_td, D, PADDED)
    b_G = tl.load(eta + i_own) * tl.sum(b_G, 0)
    b_W1_sum += b_K[:, None] * b_G[None, :]
    b_b1_sum += BIAS * b_G
    b_tau_i = tl.load(tau + i_place)
    b_W1_i, b_b1_i = b_W1 - b_tau_i * b_W1_sum, b_b1 - b_tau_i * b_b1_sum
    b_unit, _ = standardise((tl.sum(b_Q[:, None] * b_W1_i, 0) + b_b1_i)[None, :], m_td, D, PADDED)
    store(z + i_own * D + o_d, b_Q + b_scale * tl.sum(b_unit, 0) + b_shift, m_d, PADDED)
    # All threads have read the state, of which several read the same numbers, before any of them writes it.
    tl.debug_barrier()
    store(W1_next + i_own * D * D + o_W1, b_W1_i, m_W1 & ends, True)
    store(b1_next + i_own * D + o_d, b_b1_i, m_d & ends, True)
    store(W1_sum_next + i_own * D * D + o_W1, b_W1_sum, m_W1 & goes_on, True)
    store(b1_sum_next + i_own * D + o_d, b_b1_sum, m_d & goes_on, True)
