"""TTT-Linear, one token: z, and the state after it.

The state is as in ``ttt.inner.loop.InnerState``: W at the start of the mini-batch and the sum of eta_j grad loss_j
since then. So any other kernel can continue the sequence.

Shapes: B batch, H heads, D head width, b mini-batch size; P is D padded to a power of two.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import load, loss_gradient, standardise, store


@triton.jit(do_not_specialize=["offset", "heads", "shared"])
def linear_decode(
    q, k, v, eta, tau, scale, shift,
    W1, b1, W1_sum, b1_sum, z, W1_next, b1_next,
    offset, heads, shared,
    D: tl.constexpr, P: tl.constexpr,
    BIAS: tl.constexpr, BEGUN: tl.constexpr, ENDS: tl.constexpr
):  # fmt: skip
    """Compute W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W) and z = f(q; W_i) for the token ``offset`` = i - 1.

    The arguments of ``linear_forward`` for one token, q [B, H, D], eta [B, H], W at the start of the mini-batch, and:
        W1_sum: sum over the earlier tokens of the mini-batch, [B, H, D, D] float32, read if BEGUN.
        b1_sum: likewise for the bias, [B, H, D] float32.
        W1_next: [B, H, D, D] float32, written: the sum including this token; W1 of the next mini-batch if ENDS.
        b1_next: likewise for the bias, [B, H, D] float32.
        offset: number of earlier tokens in the mini-batch.
        BEGUN: whether the mini-batch has earlier tokens.
        ENDS: whether this is the last token of the mini-batch.
    """
    i_program = tl.program_id(0)
    i_head = i_program % heads
    o_d = tl.arange(0, P)
    PADDED: tl.constexpr = P != D
    m_d = o_d < D
    m_td, m_W1 = m_d[None, :], m_d[:, None] & m_d[None, :]
    i_start = (i_program * (1 - shared) + i_head * shared).to(tl.int64)
    i_own = i_program.to(tl.int64)  # offsets of W can exceed int32
    o_W1 = o_d[:, None] * D + o_d[None, :]
    b_W1 = load(W1 + i_start * D * D + o_W1, m_W1, PADDED)
    b_b1 = load(b1 + i_start * D + o_d, m_d, PADDED)
    b_K = load(k + i_own * D + o_d, m_d, PADDED).to(tl.float32)
    b_Q = load(q + i_own * D + o_d, m_d, PADDED).to(tl.float32)
    b_target = load(v + i_own * D + o_d, m_d, PADDED).to(tl.float32) - b_K
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)
    b_Z = tl.sum(b_K[:, None] * b_W1, 0) + b_b1
    b_G = loss_gradient(b_Z[None, :], b_target[None, :], b_scale[None, :], b_shift[None, :], m_td, D, PADDED)
    b_G = tl.load(eta + i_own) * tl.sum(b_G, 0)
    b_W1_sum, b_b1_sum = b_K[:, None] * b_G[None, :], BIAS * b_G
    if BEGUN:
        b_W1_sum += load(W1_sum + i_own * D * D + o_W1, m_W1, PADDED)
        b_b1_sum += load(b1_sum + i_own * D + o_d, m_d, PADDED)
    b_tau_i = tl.load(tau + offset)
    b_W1_i, b_b1_i = b_W1 - b_tau_i * b_W1_sum, b_b1 - b_tau_i * b_b1_sum
    b_unit, _ = standardise((tl.sum(b_Q[:, None] * b_W1_i, 0) + b_b1_i)[None, :], m_td, D, PADDED)
    store(z + i_own * D + o_d, b_Q + b_scale * tl.sum(b_unit, 0) + b_shift, m_d, PADDED)
    if ENDS:
        b_W1_sum, b_b1_sum = b_W1_i, b_b1_i
    store(W1_next + i_own * D * D + o_W1, b_W1_sum, m_W1, PADDED)
    store(b1_next + i_own * D + o_d, b_b1_sum, m_d, PADDED)
