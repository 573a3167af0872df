"""TTT-MLP, one token: z, and the state after it, in blocks of the hidden width.

W is read twice, the second time from a cache: all gradients depend on Z2, a sum over the whole hidden width. The state,
and where it is written, is as in ``linear_decode``.

Shapes: B batch, H heads, D head width, F hidden width, b mini-batch size; P is D padded to a power of two.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import gelu, gelu_and_slope, load, loss_gradient, standardise, store
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit(do_not_specialize=["size", "heads", "shared"])
def mlp_decode(
    q, k, v, eta, tau, scale, shift, rotation, place,
    W1, b1, W2, b2, W1_sum, b1_sum, W2_sum, b2_sum,
    z, W1_next, b1_next, W2_next, b2_next, W1_sum_next, b1_sum_next, W2_sum_next, b2_sum_next,
    size, heads, shared,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr
):  # fmt: skip
    """Compute z and the next state. Arguments as in ``linear_decode``, with W1 [B, H, D, F] and W2 [B, H, F, D].

    b1 is [B, H, F] and b2 [B, H, D]. F is the hidden width, a multiple of BLOCK, the number of hidden units per step.
    """
    i_program = tl.program_id(0)
    i_head = i_program % heads
    o_d, o_f = tl.arange(0, P), tl.arange(0, BLOCK)
    PADDED: tl.constexpr = P != D
    # m_f is all true, because BLOCK divides F; it gives the other masks their shape.
    m_d, m_f = o_d < D, o_f < BLOCK
    m_td, m_W1, m_W2 = m_d[None, :], m_d[:, None] & m_f[None, :], m_f[:, None] & m_d[None, :]
    i_start = (i_program * (1 - shared) + i_head * shared).to(tl.int64)
    i_own = i_program.to(tl.int64)  # offsets of W can exceed int32
    i_place = tl.load(place) % size
    begun, ends, goes_on = i_place > 0, i_place + 1 == size, i_place + 1 < size
    o_W1, o_W2 = o_d[:, None] * F + o_f[None, :], o_f[:, None] * D + o_d[None, :]
    b_cos, b_sin = load_rotation(rotation + i_place * D, o_d, m_d, PADDED, ROTATES)
    b_K = rotate(load(k + i_own * D + o_d, m_d, PADDED), b_cos, b_sin, ROTATES).to(tl.float32)
    b_Q = rotate(load(q + i_own * D + o_d, m_d, PADDED), b_cos, b_sin, ROTATES).to(tl.float32)
    b_target = load(v + i_own * D + o_d, m_d, PADDED).to(tl.float32) - b_K
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)
    b_b2 = load(b2 + i_start * D + o_d, m_d, PADDED).to(tl.float32)
    b_Z2 = b_b2
    for i_f in range(0, F, BLOCK):
        b_W1 = load(W1 + i_start * D * F + i_f + o_W1, m_W1, PADDED).to(tl.float32)
        b_W2 = load(W2 + i_start * D * F + i_f * D + o_W2, m_W2, PADDED).to(tl.float32)
        b_X2 = gelu(tl.sum(b_K[:, None] * b_W1, 0) + tl.load(b1 + i_start * F + i_f + o_f).to(tl.float32))
        b_Z2 += tl.sum(b_X2[:, None] * b_W2, 0)
    b_G2 = loss_gradient(b_Z2[None, :], b_target[None, :], b_scale[None, :], b_shift[None, :], m_td, D, PADDED)
    b_G2 = tl.load(eta + i_own) * tl.sum(b_G2, 0)
    b_tau_i = tl.load(tau + i_place)
    b_b2_sum = load(b2_sum + i_own * D + o_d, m_d & begun, True).to(tl.float32) + BIAS * b_G2
    b_b2_i = b_b2 - b_tau_i * b_b2_sum
    b_Z2_bar = b_b2_i
    for i_f in range(0, F, BLOCK):
        b_W1 = load(W1 + i_start * D * F + i_f + o_W1, m_W1, PADDED).to(tl.float32)
        b_W2 = load(W2 + i_start * D * F + i_f * D + o_W2, m_W2, PADDED).to(tl.float32)
        b_b1 = tl.load(b1 + i_start * F + i_f + o_f).to(tl.float32)
        b_W1_sum = load(W1_sum + i_own * D * F + i_f + o_W1, m_W1 & begun, True).to(tl.float32)
        b_W2_sum = load(W2_sum + i_own * D * F + i_f * D + o_W2, m_W2 & begun, True).to(tl.float32)
        b_b1_sum = load(b1_sum + i_own * F + i_f + o_f, m_f & begun, True).to(tl.float32)
        b_X2, b_slope = gelu_and_slope(tl.sum(b_K[:, None] * b_W1, 0) + b_b1)
        b_G1 = tl.sum(b_W2 * b_G2[None, :], 1) * b_slope
        b_W1_sum += b_K[:, None] * b_G1[None, :]
        b_W2_sum += b_X2[:, None] * b_G2[None, :]
        b_b1_sum += BIAS * b_G1
        b_W1_i, b_W2_i, b_b1_i = b_W1 - b_tau_i * b_W1_sum, b_W2 - b_tau_i * b_W2_sum, b_b1 - b_tau_i * b_b1_sum
        b_X2_bar = gelu(tl.sum(b_Q[:, None] * b_W1_i, 0) + b_b1_i)
        b_Z2_bar += tl.sum(b_X2_bar[:, None] * b_W2_i, 0)
        # All threads have read this block, and all of W in the first pass, before any of them writes the block.
        tl.debug_barrier()
        store(W1_next + i_own * D * F + i_f + o_W1, b_W1_i, m_W1 & ends, True)
        store(W2_next + i_own * D * F + i_f * D + o_W2, b_W2_i, m_W2 & ends, True)
        store(b1_next + i_own * F + i_f + o_f, b_b1_i, m_f & ends, True)
        store(W1_sum_next + i_own * D * F + i_f + o_W1, b_W1_sum, m_W1 & goes_on, True)
        store(W2_sum_next + i_own * D * F + i_f * D + o_W2, b_W2_sum, m_W2 & goes_on, True)
        store(b1_sum_next + i_own * F + i_f + o_f, b_b1_sum, m_f & goes_on, True)
    store(b2_next + i_own * D + o_d, b_b2_i, m_d & ends, True)
    store(b2_sum_next + i_own * D + o_d, b_b2_sum, m_d & goes_on, True)
    b_unit, _ = standardise(b_Z2_bar[None, :], m_td, D, PADDED)
    store(z + i_own * D + o_d, b_Q + b_scale * tl.sum(b_unit, 0) + b_shift, m_d, PADDED)
