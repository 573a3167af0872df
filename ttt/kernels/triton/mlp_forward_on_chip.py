"""TTT-MLP, forward, with W1 and W2 in registers: for D = 64, F = 256 and b = 16.

They are 2 x 64 x 256 floats, half of a multiprocessor's registers, 64 for each of 512 threads. So few other values stay
there, and some spill. In return W does not pass through the L2 cache between the first and the last mini-batch. All
loads are at the beginning of a mini-batch, and those of the next K and Q, too; the products of Q and K come late, where
fewer values wait for their use.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, gelu, gelu_and_slope, loss_gradient, standardise
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit(do_not_specialize=["count", "tokens", "heads", "shared", "group"])
def mlp_forward_on_chip(
    q, k, v, eta, tau, scale, shift, rotation,
    W1, b1, W2, b2, z, W1_last, b1_last, W2_last, b2_last,
    W1_kept, b1_kept, W2_kept, b2_kept,
    count, tokens, heads, shared, group,
    D: tl.constexpr, F: tl.constexpr, b: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr, KEEPS: tl.constexpr
):  # fmt: skip
    """Compute z = q + LN(Z2_bar) for all ``count`` mini-batches, and W after them. Arguments as in ``mlp_forward``."""
    i_program = tl.program_id(0)
    i_sequence, i_head = i_program // heads, i_program % heads
    o_t, o_d, o_f = tl.arange(0, b), tl.arange(0, D), tl.arange(0, F)
    # These sizes are powers of two: nothing is padded, and no mask is read.
    NO_MASK: tl.constexpr = None
    o_W1, o_W2 = o_d[:, None] * F + o_f[None, :], o_f[:, None] * D + o_d[None, :]
    o_td = o_t[:, None] * heads * D + o_d[None, :]
    i_start, i_own = (i_program * (1 - shared) + i_head * shared).to(tl.int64), i_program.to(tl.int64)
    b_W1, b_W2 = tl.load(W1 + i_start * D * F + o_W1), tl.load(W2 + i_start * D * F + o_W2)
    b_b1, b_b2 = tl.load(b1 + i_start * F + o_f), tl.load(b2 + i_start * D + o_d)
    # K and Q are loaded a mini-batch ahead: the first product needs K, and both are rotated before it.
    o_view = (i_sequence.to(tl.int64) * tokens * heads + i_head) * D + o_td
    b_K, b_Q = tl.load(k + o_view), tl.load(q + o_view)
    b_scale, b_shift = tl.load(scale + i_head * D + o_d)[None, :], tl.load(shift + i_head * D + o_d)[None, :]
    b_tau, b_tau_b = tl.load(tau + o_t), tl.load(tau + b - 1)
    b_cos, b_sin = load_rotation(rotation, o_t[:, None] * D + o_d[None, :], NO_MASK, False, ROTATES)
    b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    i_next_kept, i_kept = 0, i_own
    for i in tl.range(0, count, disable_licm=True):
        o_view = ((i_sequence.to(tl.int64) * tokens + i * b) * heads + i_head) * D + o_td
        if KEEPS:
            if i == i_next_kept:
                tl.store(W1_kept + i_kept * D * F + o_W1, b_W1)
                tl.store(W2_kept + i_kept * D * F + o_W2, b_W2)
                tl.store(b1_kept + i_kept * F + o_f, b_b1)
                tl.store(b2_kept + i_kept * D + o_d, b_b2)
                i_next_kept += group
                i_kept += tl.num_programs(0)
        b_V = tl.load(v + o_view)
        b_eta = tl.load(eta + i_own * tokens + i * b + o_t)
        b_K_next = tl.load(k + o_view + b * heads * D, mask=i + 1 < count, other=0.0)
        b_Q_next = tl.load(q + o_view + b * heads * D, mask=i + 1 < count, other=0.0)
        dtype = b_K.dtype
        b_W1_half, b_W2_half = b_W1.to(dtype), b_W2.to(dtype)
        b_X2, b_slope = gelu_and_slope(dot(b_K, b_W1_half) + b_b1[None, :])
        b_X2 = b_X2.to(dtype)
        b_Z2 = dot(b_X2, b_W2_half) + b_b2[None, :]
        b_target = b_V.to(tl.float32) - b_K.to(tl.float32)
        b_G2 = loss_gradient(b_Z2, b_target, b_scale, b_shift, NO_MASK, D, False)
        b_rate = (b_tau_b * b_eta)[:, None]
        b_G2_half, b_step2 = b_G2.to(dtype), (-b_rate * b_G2).to(dtype)
        b_G1 = dot(b_G2_half, tl.trans(b_W2_half)) * b_slope
        b_M = tl.where(o_t[:, None] >= o_t[None, :], -b_tau[:, None] * b_eta[None, :], 0.0)
        b_A1 = (b_M * (dot(b_Q, tl.trans(b_K)) + BIAS)).to(dtype)
        b_X2_bar = gelu(dot(b_A1, b_G1.to(dtype), dot(b_Q, b_W1_half) + b_b1[None, :])).to(dtype)
        b_A2 = (b_M * (dot(b_X2_bar, tl.trans(b_X2)) + BIAS)).to(dtype)
        b_Z2_bar = dot(b_A2, b_G2_half, dot(b_X2_bar, b_W2_half) + b_b2[None, :])
        b_unit, _ = standardise(b_Z2_bar, NO_MASK, D, False)
        tl.store(z + o_view, (b_Q.to(tl.float32) + b_scale * b_unit + b_shift).to(dtype))
        b_W2 = dot(tl.trans(b_X2), b_step2, b_W2)
        b_step1 = -b_rate * b_G1
        b_b1 += BIAS * tl.sum(b_step1, 0)
        b_b2 -= BIAS * tl.sum(b_rate * b_G2, 0)
        b_W1 = dot(tl.trans(b_K), b_step1.to(dtype), b_W1)
        b_K, b_Q = rotate(b_K_next, b_cos, b_sin, ROTATES), rotate(b_Q_next, b_cos, b_sin, ROTATES)
    tl.store(W1_last + i_own * D * F + o_W1, b_W1)
    tl.store(W2_last + i_own * D * F + o_W2, b_W2)
    tl.store(b1_last + i_own * F + o_f, b_b1)
    tl.store(b2_last + i_own * D + o_d, b_b2)
