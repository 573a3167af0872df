"""TTT-MLP, forward, for any sizes: W is streamed from memory in blocks of the hidden width.

W1 and W2 are 2 x 64 x 256 floats per head at D = 64, as much as a whole register file. Here they stay in the memory of
W_last, which the L2 cache holds while a program works on it. Each mini-batch reads them twice and writes them once: the
first pass computes Z2, on which all gradients depend, the second everything else.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size; tiles as in ``functions``.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, gelu, gelu_and_slope, load, loss_gradient, standardise, store
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit
def load_views(q, k, o_view, m_td, OUTPUTS: tl.constexpr):
    """Return the tiles of K and Q, 0 where the mask is false. Without OUTPUTS Q is K."""
    b_K = tl.load(k + o_view, mask=m_td, other=0.0)
    return b_K, tl.load(q + o_view, mask=m_td, other=0.0) if OUTPUTS else b_K


@triton.jit
def copy_weights(
    p_W1, p_b1, p_W2, p_W1_to, p_b1_to, p_W2_to,
    m_W1, m_W2, o_W1, o_W2,
    F: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """Copy W1 [D, F], b1 [F] and W2 [F, D] of one head."""
    o_f = tl.arange(0, BLOCK)
    for i_f in range(0, F, BLOCK):
        store(p_W1_to + i_f + o_W1, load(p_W1 + i_f + o_W1, m_W1, PADDED), m_W1, PADDED)
        store(p_W2_to + i_f * D + o_W2, load(p_W2 + i_f * D + o_W2, m_W2, PADDED), m_W2, PADDED)
        tl.store(p_b1_to + i_f + o_f, tl.load(p_b1 + i_f + o_f))


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads", "shared", "group"])
def mlp_forward(
    q, k, v, eta, tau, scale, shift, rotation,
    W1, b1, W2, b2, z, W1_last, b1_last, W2_last, b2_last,
    W1_kept, b1_kept, W2_kept, b2_kept, G1_kept, G2_kept,
    first, count, tokens, heads, shared, group,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr, OUTPUTS: tl.constexpr, KEEPS: tl.constexpr
):  # fmt: skip
    """Compute z = q + LN(Z2_bar) for mini-batches ``first`` to ``first + count - 1``, and W after them.

    The arguments of ``linear_forward``, with W1 [B, H, D, F], b1 [B, H, F], W2 [B, H, F, D], b2 [B, H, D], and:
        W1_last: W1 after the last mini-batch; W between mini-batches is in the same memory.
        G1_kept: G1 for the backward pass, [count, B, H, b, F] in the views' type, written if not OUTPUTS.
        G2_kept: G2 likewise, [count, B, H, b, D].
        F: hidden width, a multiple of BLOCK.
        BLOCK: hidden units per step.
    """
    i_program = tl.program_id(0)
    i_sequence, i_head = i_program // heads, i_program % heads
    o_t, o_d, o_f = tl.arange(0, R), tl.arange(0, P), tl.arange(0, BLOCK)
    PADDED: tl.constexpr = P != D or R != b
    # m_f is all true, because BLOCK divides F; it gives the other masks their shape.
    m_d, m_t, m_f = o_d < D, o_t < b, o_f < BLOCK
    m_td, m_tf = m_t[:, None] & m_d[None, :], m_t[:, None] & m_f[None, :]
    m_W1, m_W2 = m_d[:, None] & m_f[None, :], m_f[:, None] & m_d[None, :]
    o_W1, o_W2 = o_d[:, None] * F + o_f[None, :], o_f[:, None] * D + o_d[None, :]
    o_td, o_tf = o_t[:, None] * heads * D + o_d[None, :], o_t[:, None] * F + o_f[None, :]
    i_start = (i_program * (1 - shared) + i_head * shared).to(tl.int64)
    i_own = i_program.to(tl.int64)  # offsets of W can exceed int32
    p_W1_last, p_W2_last, p_b1_last = W1_last + i_own * D * F, W2_last + i_own * D * F, b1_last + i_own * F
    copy_weights(
        W1 + i_start * D * F, b1 + i_start * F, W2 + i_start * D * F, p_W1_last, p_b1_last, p_W2_last,
        m_W1, m_W2, o_W1, o_W2, F, D, BLOCK, PADDED
    )  # fmt: skip
    b_b2 = load(b2 + i_start * D + o_d, m_d, PADDED)
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)[None, :]
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)[None, :]
    b_tau, b_tau_b = load(tau + o_t, m_t, PADDED), tl.load(tau + b - 1)
    tl.debug_barrier()
    i_view = ((i_sequence.to(tl.int64) * tokens + first * b) * heads + i_head) * D
    b_K, b_Q = load_views(q, k, i_view + o_td, m_td, OUTPUTS)
    b_cos, b_sin = load_rotation(rotation, o_t[:, None] * D + o_d[None, :], m_td, PADDED, ROTATES)
    b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    for i in tl.range(0, count, disable_licm=True):
        o_view = i_view + o_td
        i_view += b * heads * D
        b_K_next, b_Q_next = load_views(q, k, i_view + o_td, m_td & (i + 1 < count), OUTPUTS)
        i_kept = ((i // group).to(tl.int64)) * tl.num_programs(0) + i_program
        starts_group = i % group == 0
        # The other loads from device memory are here, too, so that they wait together.
        b_V = load(v + o_view, m_td, PADDED)
        b_eta = load(eta + i_own * tokens + (first + i) * b + o_t, m_t, PADDED)
        dtype = b_K.dtype
        b_Z2 = tl.zeros((R, P), tl.float32)
        for i_f in range(0, F, BLOCK):
            b_W1 = load(p_W1_last + i_f + o_W1, m_W1, PADDED)
            b_W2 = load(p_W2_last + i_f * D + o_W2, m_W2, PADDED)
            b_b1 = tl.load(p_b1_last + i_f + o_f)
            if KEEPS:
                if starts_group:
                    store(W1_kept + i_kept * D * F + i_f + o_W1, b_W1, m_W1, PADDED)
                    store(W2_kept + i_kept * D * F + i_f * D + o_W2, b_W2, m_W2, PADDED)
                    tl.store(b1_kept + i_kept * F + i_f + o_f, b_b1)
            b_Z1 = dot(b_K, b_W1.to(dtype)) + b_b1[None, :]
            b_Z2 = dot(gelu(b_Z1).to(dtype), b_W2.to(dtype), b_Z2)
        b_Z2 += b_b2[None, :]
        if KEEPS:
            if starts_group:
                store(b2_kept + i_kept * D + o_d, b_b2, m_d, PADDED)
        b_target = b_V.to(tl.float32) - b_K.to(tl.float32)
        b_G2 = loss_gradient(b_Z2, b_target, b_scale, b_shift, m_td, D, PADDED)
        b_rate = b_tau_b * b_eta
        # G1 and G2 are rounded before they are multiplied by the rate: the backward pass undoes exactly these steps.
        b_G2_half = b_G2.to(dtype)
        b_step2 = -b_rate[:, None] * b_G2_half.to(tl.float32)
        b_b2_before = b_b2
        b_b2 += BIAS * tl.sum(b_step2, 0)
        b_step2_half = b_step2.to(dtype)
        if OUTPUTS:
            b_M = tl.where(o_t[:, None] >= o_t[None, :], -b_tau[:, None] * b_eta[None, :], 0.0)
            b_A1 = (b_M * (dot(b_Q, tl.trans(b_K)) + BIAS)).to(dtype)
            b_Z2_bar, b_S2 = tl.zeros((R, P), tl.float32), tl.zeros((R, R), tl.float32)
        else:
            i_kept_token = (i * tl.num_programs(0) + i_program).to(tl.int64) * b
            store(G2_kept + i_kept_token * D + o_t[:, None] * D + o_d[None, :], b_G2_half, m_td, PADDED)
        for i_f in range(0, F, BLOCK):
            p_W1, p_W2 = p_W1_last + i_f + o_W1, p_W2_last + i_f * D + o_W2
            b_b1 = tl.load(p_b1_last + i_f + o_f)
            b_W1, b_W2 = load(p_W1, m_W1, PADDED), load(p_W2, m_W2, PADDED)
            b_W1_half, b_W2_half = b_W1.to(dtype), b_W2.to(dtype)
            b_Z1 = dot(b_K, b_W1_half) + b_b1[None, :]
            b_X2, b_slope = gelu_and_slope(b_Z1)
            b_X2 = b_X2.to(dtype)
            b_G1 = (dot(b_G2_half, tl.trans(b_W2_half)) * b_slope).to(dtype)
            if OUTPUTS:
                b_X2_bar = gelu(dot(b_A1, b_G1, dot(b_Q, b_W1_half) + b_b1[None, :])).to(dtype)
                b_S2 = dot(b_X2_bar, tl.trans(b_X2), b_S2)
            else:
                store(G1_kept + i_kept_token * F + i_f + o_tf, b_G1, m_tf, PADDED)
            b_step1 = -b_rate[:, None] * b_G1.to(tl.float32)
            store(p_W1, dot(tl.trans(b_K), b_step1.to(dtype), b_W1), m_W1, PADDED)
            store(p_W2, dot(tl.trans(b_X2), b_step2_half, b_W2), m_W2, PADDED)
            tl.store(p_b1_last + i_f + o_f, b_b1 + BIAS * tl.sum(b_step1, 0))
            if OUTPUTS:
                b_Z2_bar = dot(b_X2_bar, b_W2_half, b_Z2_bar)
        if OUTPUTS:
            b_A2 = (b_M * (b_S2 + BIAS)).to(dtype)
            b_Z2_bar = dot(b_A2, b_G2_half, b_Z2_bar + b_b2_before[None, :])
            b_unit, _ = standardise(b_Z2_bar, m_td, D, PADDED)
            store(z + o_view, b_Q.to(tl.float32) + b_scale * b_unit + b_shift, m_td, PADDED)
        # All threads have written their part of W before any of them reads it.
        tl.debug_barrier()
        b_K, b_Q = rotate(b_K_next, b_cos, b_sin, ROTATES), rotate(b_Q_next, b_cos, b_sin, ROTATES)
    store(b2_last + i_own * D + o_d, b_b2, m_d, PADDED)
