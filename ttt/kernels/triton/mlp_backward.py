"""TTT-MLP, backward: one program per head; it recomputes each group of mini-batches, last first, and goes back.

Of each mini-batch in a group only G1 and G2 are kept, a thirteenth of W's size; with W after the mini-batch they give
W before it. W, dW and the activations of one mini-batch are in memory, in the L2 cache. On the way back each mini-batch
takes three passes over the hidden width, in blocks: the first restores W and the activations, the second computes the
sums that the gradient of G2 needs, and the third, with dZ2 known, computes dW1, dW2 and the rest of dK.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size; tiles as in ``functions``. Names
follow the derivation in ``README.md``: dX is the gradient of the outer loss with respect to X.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import (
    dot,
    gelu,
    gelu_and_slope,
    gelu_slope_and_curvature,
    load,
    loss_gradient_backward,
    loss_gradient_kept,
    standardise,
    standardise_backward,
    store,
)
from ttt.kernels.triton.mlp_forward import load_views, mlp_forward
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit
def restore(
    b_K, b_Q, b_A1, b_rate, b_back2,
    p_W1_last, p_b1_last, p_W2_last, p_G1, p_Z1, p_slope_bar, p_X2, p_X2_bar,
    m_W1, m_W2, m_tf, o_W1, o_W2, o_tf,
    F: tl.constexpr, D: tl.constexpr, P: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """Restore W1, b1, W2 of one head to their values before a mini-batch, and store the mini-batch's activations.

    ``back2`` = rate * G2 is what each token subtracted; A1 = -M * S1. Returns Z2 without b2, Z2_bar without b2 and
    without the term of G2, and X2_bar X2^T.
    """
    o_f = tl.arange(0, BLOCK)
    dtype = b_K.dtype
    b_Z2, b_Z2_bar = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
    b_S2 = tl.zeros((R, R), tl.float32)
    for i_f in range(0, F, BLOCK):
        p_W1, p_W2, o_block = p_W1_last + i_f + o_W1, p_W2_last + i_f * D + o_W2, i_f + o_tf
        b_G1 = load(p_G1 + o_block, m_tf, PADDED)
        b_back1 = b_rate * b_G1.to(tl.float32)
        b_W1 = dot(tl.trans(b_K), b_back1.to(dtype), load(p_W1, m_W1, PADDED))
        b_b1 = tl.load(p_b1_last + i_f + o_f) + BIAS * tl.sum(b_back1, 0)
        store(p_W1, b_W1, m_W1, PADDED)
        b_W1_half = b_W1.to(dtype)
        b_Z1 = dot(b_K, b_W1_half) + b_b1[None, :]
        b_X2 = gelu(b_Z1).to(dtype)
        b_W2 = dot(tl.trans(b_X2), b_back2, load(p_W2, m_W2, PADDED))
        store(p_W2, b_W2, m_W2, PADDED)
        b_W2_half = b_W2.to(dtype)
        b_Z1_bar = dot(b_A1, b_G1, dot(b_Q, b_W1_half) + b_b1[None, :])
        b_X2_bar, b_slope_bar = gelu_and_slope(b_Z1_bar)
        b_X2_bar = b_X2_bar.to(dtype)
        store(p_Z1 + o_block, b_Z1, m_tf, PADDED)
        store(p_slope_bar + o_block, b_slope_bar, m_tf, PADDED)
        store(p_X2 + o_block, b_X2, m_tf, PADDED)
        store(p_X2_bar + o_block, b_X2_bar, m_tf, PADDED)
        b_S2 = dot(b_X2_bar, tl.trans(b_X2), b_S2)
        # Stored after the products, which no warp begins before all warps have read the bias.
        tl.store(p_b1_last + i_f + o_f, b_b1)
        b_Z2 = dot(b_X2, b_W2_half, b_Z2)
        b_Z2_bar = dot(b_X2_bar, b_W2_half, b_Z2_bar)
    return b_Z2, b_Z2_bar, b_S2


@triton.jit
def backward_group(
    q, k, v, eta, tau, scale, shift, rotation, p_W1_last, p_b1_last, p_W2_last, b2_last, G1_kept, G2_kept,
    dz, dq, dk, dv, deta, dtau, dscale, dshift, p_dW1, p_db1, p_dW2, db2,
    p_Z1, p_slope_bar, p_X2, p_X2_bar, p_dZ1_part, p_dH, first, count, tokens, heads,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr
):  # fmt: skip
    """Compute the gradients for mini-batches ``first + count - 1`` down to ``first``. Arguments as in ``mlp_backward``.

    Arguments with the prefix p_ point to the part of this program. W1_last, b1_last and W2_last hold W after the
    mini-batches on entry and before them on return; b2_last is not changed.
    """
    i_program = tl.program_id(0)
    i_sequence, i_head = i_program // heads, i_program % heads
    o_t, o_d, o_f = tl.arange(0, R), tl.arange(0, P), tl.arange(0, BLOCK)
    PADDED: tl.constexpr = P != D or R != b
    m_d, m_t, m_f = o_d < D, o_t < b, o_f < BLOCK
    m_td, m_tf = m_t[:, None] & m_d[None, :], m_t[:, None] & m_f[None, :]
    m_W1, m_W2 = m_d[:, None] & m_f[None, :], m_f[:, None] & m_d[None, :]
    o_W1, o_W2 = o_d[:, None] * F + o_f[None, :], o_f[:, None] * D + o_d[None, :]
    o_td, o_tf = o_t[:, None] * heads * D + o_d[None, :], o_t[:, None] * F + o_f[None, :]
    i_own = i_program.to(tl.int64)  # offsets of W can exceed int32
    b_b2 = load(b2_last + i_own * D + o_d, m_d, PADDED)
    o_sum, o_dtau = i_own * D + o_d, i_own * b + o_t
    b_db2, b_dscale = load(db2 + o_sum, m_d, PADDED), load(dscale + o_sum, m_d, PADDED)
    b_dshift, b_dtau = load(dshift + o_sum, m_d, PADDED), load(dtau + o_dtau, m_t, PADDED)
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)[None, :]
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)[None, :]
    b_tau, b_tau_b = load(tau + o_t, m_t, PADDED), tl.load(tau + b - 1)
    i_view = ((i_sequence.to(tl.int64) * tokens + (first + count - 1) * b) * heads + i_head) * D
    b_cos, b_sin = load_rotation(rotation, o_t[:, None] * D + o_d[None, :], m_td, PADDED, ROTATES)
    b_K, b_Q = load_views(q, k, i_view + o_td, m_td, True)
    b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    for i in tl.range(0, count, disable_licm=True):
        i_mini_batch, o_view = count - 1 - i, i_view + o_td
        i_view -= b * heads * D
        b_K_next, b_Q_next = load_views(q, k, i_view + o_td, m_td & (i + 1 < count), True)
        o_eta = i_own * tokens + (first + i_mini_batch) * b + o_t
        i_kept = i_mini_batch.to(tl.int64) * tl.num_programs(0) + i_program
        # The other loads from device memory are here, too, so that they wait together.
        b_V, b_dz_half = load(v + o_view, m_td, PADDED), load(dz + o_view, m_td, PADDED)
        b_eta = load(eta + o_eta, m_t, PADDED)
        b_G2_half = load(G2_kept + i_kept * b * D + o_t[:, None] * D + o_d[None, :], m_td, PADDED)
        dtype = b_K.dtype
        b_rate = (b_tau_b * b_eta)[:, None]
        m_causal = o_t[:, None] >= o_t[None, :]
        b_M = tl.where(m_causal, b_tau[:, None] * b_eta[None, :], 0.0)
        b_S1 = dot(b_Q, tl.trans(b_K)) + BIAS
        b_A1 = (b_M * b_S1).to(dtype)
        b_back2 = b_rate * b_G2_half.to(tl.float32)
        b_b2 += BIAS * tl.sum(b_back2, 0)
        b_back2_half = b_back2.to(dtype)
        b_Z2, b_Z2_bar, b_S2 = restore(
            b_K, b_Q, -b_A1, b_rate, b_back2_half,
            p_W1_last, p_b1_last, p_W2_last, G1_kept + i_kept * b * F, p_Z1, p_slope_bar, p_X2, p_X2_bar,
            m_W1, m_W2, m_tf, o_W1, o_W2, o_tf, F, D, P, R, BLOCK, BIAS, PADDED
        )  # fmt: skip
        b_S2 += BIAS
        # z = q + LN(Z2_bar)
        b_Z2_bar = dot(-(b_M * b_S2).to(dtype), b_G2_half, b_Z2_bar + b_b2[None, :])
        b_unit, b_r = standardise(b_Z2_bar, m_td, D, PADDED)
        b_dz = b_dz_half.to(tl.float32)
        b_dscale += tl.sum(b_dz * b_unit, 0)
        b_dshift += tl.sum(b_dz, 0)
        b_dZ2_bar = standardise_backward(b_dz * b_scale, b_unit, b_r, m_td, D, PADDED)
        b_dZ2_bar_half = b_dZ2_bar.to(dtype)
        b_target = b_V.to(tl.float32) - b_K.to(tl.float32)
        b_G2, b_unit, b_r, b_residual, b_E_unit = loss_gradient_kept(
            b_Z2 + b_b2[None, :], b_target, b_scale, b_shift, m_td, D, PADDED
        )
        # Z2_bar = X2_bar W2 + b2 - (M * S2) G2, S2 = X2_bar X2^T + 1; Z1_bar likewise with S1 = Q K^T + 1.
        b_dA2 = -dot(b_dZ2_bar_half, tl.trans(b_G2_half))
        b_dS2 = (b_M * b_dA2).to(dtype)
        b_dA1, b_d_rate = tl.zeros((R, R), tl.float32), tl.zeros((R,), tl.float32)
        b_dQ, b_dK = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        b_dG2, b_Y2 = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        # Other threads read what this one has stored.
        tl.debug_barrier()
        for i_f in range(0, F, BLOCK):
            o_block = i_f + o_tf
            b_W1 = load(p_W1_last + i_f + o_W1, m_W1, PADDED).to(dtype)
            b_W2 = load(p_W2_last + i_f * D + o_W2, m_W2, PADDED).to(dtype)
            b_dW1 = load(p_dW1 + i_f + o_W1, m_W1, PADDED).to(dtype)
            b_dW2 = load(p_dW2 + i_f * D + o_W2, m_W2, PADDED).to(dtype)
            b_X2, b_X2_bar = load(p_X2 + o_block, m_tf, PADDED), load(p_X2_bar + o_block, m_tf, PADDED)
            b_slope, b_curvature = gelu_slope_and_curvature(load(p_Z1 + o_block, m_tf, PADDED).to(tl.float32))
            b_slope_bar = load(p_slope_bar + o_block, m_tf, PADDED).to(tl.float32)
            b_H = dot(b_G2_half, tl.trans(b_W2))
            b_G1 = b_H * b_slope
            b_dX2_bar = dot(b_dS2, b_X2, dot(b_dZ2_bar_half, tl.trans(b_W2)))
            b_dZ1_bar = b_dX2_bar * b_slope_bar
            b_dZ1_bar_half = b_dZ1_bar.to(dtype)
            b_dX2 = dot(tl.trans(b_dS2), b_X2_bar, dot(-b_back2_half, tl.trans(b_dW2)))
            b_Y1 = dot(b_K, b_dW1) + tl.load(p_db1 + i_f + o_f)[None, :]
            b_d_rate -= tl.sum(b_Y1 * b_G1, 1)
            b_dG1 = -dot(tl.trans(b_A1), b_dZ1_bar_half) - b_rate * b_Y1
            b_dH = (b_dG1 * b_slope).to(dtype)
            store(p_dZ1_part + o_block, b_dG1 * b_H * b_curvature + b_dX2 * b_slope, m_tf, PADDED)
            store(p_dH + o_block, b_dH, m_tf, PADDED)
            # dZ1_bar takes the memory of this slope.
            store(p_slope_bar + o_block, b_dZ1_bar_half, m_tf, PADDED)
            b_dA1 = dot(b_dZ1_bar_half, tl.trans(b_G1.to(dtype)), b_dA1)
            b_dK = dot((-b_rate * b_G1).to(dtype), tl.trans(b_dW1), b_dK)
            b_dQ = dot(b_dZ1_bar_half, tl.trans(b_W1), b_dQ)
            b_Y2 = dot(b_X2, b_dW2, b_Y2)
            b_dG2 = dot(b_dH, b_W2, b_dG2)
        b_dS1 = (-b_M * b_dA1).to(dtype)
        b_dQ = dot(b_dS1, b_K, b_dQ) + b_dz_half.to(tl.float32)
        store(dq + o_view, rotate(b_dQ, b_cos, -b_sin, ROTATES), m_td, PADDED)
        b_dK = dot(tl.trans(b_dS1), b_Q, b_dK)
        b_Y2 += b_db2[None, :]
        b_d_rate -= tl.sum(b_Y2 * b_G2, 1)
        b_dM = tl.where(m_causal, b_S2 * b_dA2 - b_S1 * b_dA1, 0.0)
        b_dtau += tl.sum(b_dM * b_eta[None, :], 1) + tl.where(o_t == b - 1, tl.sum(b_d_rate * b_eta, 0), 0.0)
        store(deta + o_eta, tl.sum(b_dM * b_tau[:, None], 0) + b_d_rate * b_tau_b, m_t, PADDED)
        b_dG2 = dot(tl.trans((-b_M * b_S2).to(dtype)), b_dZ2_bar_half, b_dG2) - b_rate * b_Y2
        b_dZ2, b_d_residual, b_dscale_G = loss_gradient_backward(
            b_dG2, b_G2, b_unit, b_r, b_residual, b_E_unit, b_scale, m_td, D, PADDED
        )
        b_dscale, b_dshift = b_dscale + b_dscale_G, b_dshift + tl.sum(b_d_residual, 0)
        store(dv + o_view, -b_d_residual, m_td, PADDED)
        b_dK += b_d_residual
        b_dZ2_half = b_dZ2.to(dtype)
        b_db2 += BIAS * tl.sum(b_dZ2 + b_dZ2_bar, 0)
        # Other threads read what this one has stored in the second pass.
        tl.debug_barrier()
        for i_f in range(0, F, BLOCK):
            o_block = i_f + o_tf
            b_W1 = load(p_W1_last + i_f + o_W1, m_W1, PADDED).to(dtype)
            b_W2 = load(p_W2_last + i_f * D + o_W2, m_W2, PADDED).to(dtype)
            b_X2, b_X2_bar = load(p_X2 + o_block, m_tf, PADDED), load(p_X2_bar + o_block, m_tf, PADDED)
            _, b_slope = gelu_and_slope(load(p_Z1 + o_block, m_tf, PADDED).to(tl.float32))
            b_dZ1_bar = load(p_slope_bar + o_block, m_tf, PADDED)
            b_dZ1 = dot(b_dZ2_half, tl.trans(b_W2)) * b_slope + load(p_dZ1_part + o_block, m_tf, PADDED).to(tl.float32)
            b_dZ1_half = b_dZ1.to(dtype)
            b_dW1 = dot(tl.trans(b_Q), b_dZ1_bar, load(p_dW1 + i_f + o_W1, m_W1, PADDED))
            store(p_dW1 + i_f + o_W1, dot(tl.trans(b_K), b_dZ1_half, b_dW1), m_W1, PADDED)
            b_db1 = tl.sum(b_dZ1 + b_dZ1_bar.to(tl.float32), 0)
            tl.store(p_db1 + i_f + o_f, tl.load(p_db1 + i_f + o_f) + BIAS * b_db1)
            b_dW2 = dot(tl.trans(b_X2_bar), b_dZ2_bar_half, load(p_dW2 + i_f * D + o_W2, m_W2, PADDED))
            b_dW2 = dot(tl.trans(load(p_dH + o_block, m_tf, PADDED)), b_G2_half, b_dW2)
            store(p_dW2 + i_f * D + o_W2, dot(tl.trans(b_X2), b_dZ2_half, b_dW2), m_W2, PADDED)
            b_dK = dot(b_dZ1_half, tl.trans(b_W1), b_dK)
        store(dk + o_view, rotate(b_dK, b_cos, -b_sin, ROTATES), m_td, PADDED)
        tl.debug_barrier()
        b_K, b_Q = rotate(b_K_next, b_cos, b_sin, ROTATES), rotate(b_Q_next, b_cos, b_sin, ROTATES)
    store(db2 + o_sum, b_db2, m_d, PADDED)
    store(dscale + o_sum, b_dscale, m_d, PADDED)
    store(dshift + o_sum, b_dshift, m_d, PADDED)
    store(dtau + o_dtau, b_dtau, m_t, PADDED)


@triton.jit(do_not_specialize=["mini_batches", "tokens", "heads", "group"])
def mlp_backward(
    q, k, v, eta, tau, scale, shift, rotation,
    W1_kept, b1_kept, W2_kept, b2_kept, W1_last, b1_last, W2_last, b2_last, G1_kept, G2_kept,
    dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1, db1, dW2, db2,
    Z1_scratch, slope_bar, X2_scratch, X2_bar_scratch, dZ1_part, dH,
    mini_batches, tokens, heads, group,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr
):  # fmt: skip
    """Compute the gradients of all inputs from the gradients of z and of W after the last mini-batch.

    The arguments of ``mlp_forward``, and:
        W1_kept: W1 before each group, [groups, B, H, D, F] float32, as b1_kept, W2_kept, b2_kept.
        W1_last: scratch for W1, [B, H, D, F] float32, as b1_last, W2_last, b2_last.
        G1_kept: scratch for G1 of one group, [group, B, H, b, F] in the views' type, as G2_kept [group, B, H, b, D].
        dz: gradient of z, [B, T, H, D] in memory, in the views' type, as dq, dk and dv, which are written.
        deta: [B, H, T] float32, written.
        dtau: [B, H, b] float32, added to, as dscale and dshift [B, H, D].
        dW1: [B, H, D, F] float32: on entry the gradient of W1 after the mini-batches, on return of W1 before them;
            likewise db1, dW2, db2.
        Z1_scratch: Z1 of one mini-batch, [B, H, b, F] in the views' type, as slope_bar to dH.
        mini_batches: number of mini-batches.
    """
    i_program = tl.program_id(0).to(tl.int64)
    o_W, o_bF = i_program * D * F, i_program * b * F
    groups = tl.cdiv(mini_batches, group)
    for i in tl.range(0, groups, disable_licm=True):
        first = (groups - 1 - i) * group
        count = tl.minimum(group, mini_batches - first)
        i_kept = (groups - 1 - i).to(tl.int64) * tl.num_programs(0)
        mlp_forward(
            q, k, v, eta, tau, scale, shift, rotation,
            W1_kept + i_kept * D * F, b1_kept + i_kept * F, W2_kept + i_kept * D * F, b2_kept + i_kept * D,
            dq, W1_last, b1_last, W2_last, b2_last,  # z and W_kept are not written: dq and W_kept are placeholders
            W1_kept, b1_kept, W2_kept, b2_kept, G1_kept, G2_kept,
            first, count, tokens, heads, 0, group,
            D, P, F, BLOCK, b, R,
            BIAS, ROTATES, False, False
        )  # fmt: skip
        # All threads have written what the next function reads.
        tl.debug_barrier()
        backward_group(
            q, k, v, eta, tau, scale, shift, rotation,
            W1_last + o_W, b1_last + i_program * F, W2_last + o_W, b2_last, G1_kept, G2_kept,
            dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1 + o_W, db1 + i_program * F, dW2 + o_W, db2,
            Z1_scratch + o_bF, slope_bar + o_bF, X2_scratch + o_bF, X2_bar_scratch + o_bF,
            dZ1_part + o_bF, dH + o_bF,
            first, count, tokens, heads,
            D, P, F, BLOCK, b, R,
            BIAS, ROTATES
        )  # fmt: skip
        tl.debug_barrier()
