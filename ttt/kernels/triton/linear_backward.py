"""TTT-Linear, backward: one program goes back through a group of mini-batches of one head of one sequence.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size; tiles as in ``functions``. Names follow the
derivation in ``README.md``: dX is the gradient of the outer loss with respect to X.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import (
    dot,
    load,
    loss_gradient_backward,
    loss_gradient_kept,
    standardise,
    standardise_backward,
    store,
)
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit
def mini_batch(q, k, v, dz, eta, W1_kept, b1_kept, exists, o_view, o_eta, o_W1_kept, o_b1_kept, m_td, m_t, m_W1, m_d):
    """Return the tiles of Q, K, V, dZ, eta [R], W1 and b1 [P] of a mini-batch, 0 if it does not exist."""
    m_views = m_td & exists
    b_K = tl.load(k + o_view, mask=m_views, other=0.0)
    b_W1 = tl.load(W1_kept + o_W1_kept, mask=m_W1 & exists, other=0.0)
    b_b1 = tl.load(b1_kept + o_b1_kept, mask=m_d & exists, other=0.0)
    b_V = tl.load(v + o_view, mask=m_views, other=0.0)
    b_eta = tl.load(eta + o_eta, mask=m_t & exists, other=0.0)
    b_Q = tl.load(q + o_view, mask=m_views, other=0.0)
    b_dz = tl.load(dz + o_view, mask=m_views, other=0.0)
    return b_K, b_W1, b_b1, b_V, b_eta, b_Q, b_dz


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads"])
def linear_backward(
    q, k, v, eta, tau, scale, shift, rotation,
    W1_kept, b1_kept,
    dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1, db1,
    first, count, tokens, heads,
    D: tl.constexpr, P: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr, RESIDENT: tl.constexpr
):  # fmt: skip
    """Compute the gradients of all inputs for mini-batches ``first + count - 1`` down to ``first``.

    The arguments of ``linear_forward``, and:
        W1_kept: W1 before each mini-batch, [count, B, H, D, D] in the views' type; b1_kept [count, B, H, D] float32.
        dz: gradient of z, [B, T, H, D] in memory, in the views' type, as dq, dk and dv, which are written.
        deta: [B, H, T] float32, written.
        dtau: [B, H, b] float32, added to, as dscale and dshift [B, H, D].
        dW1: [B, H, D, D] float32: on entry the gradient of W1 after the mini-batches, on return of W1 before them;
            db1 [B, H, D] likewise.
        RESIDENT: whether dW1 stays in registers; if not, it stays in memory, in the L2 cache.
    """
    i_program = tl.program_id(0)
    i_sequence, i_head = i_program // heads, i_program % heads
    o_t, o_d = tl.arange(0, R), tl.arange(0, P)
    PADDED: tl.constexpr = P != D or R != b
    m_t, m_d = o_t < b, o_d < D
    m_td, m_W1 = m_t[:, None] & m_d[None, :], m_d[:, None] & m_d[None, :]
    o_W1, o_td = o_d[:, None] * D + o_d[None, :], o_t[:, None] * heads * D + o_d[None, :]
    o_dW1 = i_program.to(tl.int64) * D * D + o_W1
    b_dW1, b_db1 = load(dW1 + o_dW1, m_W1, PADDED), load(db1 + i_program * D + o_d, m_d, PADDED)
    b_dscale = load(dscale + i_program * D + o_d, m_d, PADDED)
    b_dshift = load(dshift + i_program * D + o_d, m_d, PADDED)
    b_dtau = load(dtau + i_program * b + o_t, m_t, PADDED)
    i_token = (first + count - 1) * b
    i_view = ((i_sequence.to(tl.int64) * tokens + i_token) * heads + i_head) * D
    i_eta = i_program.to(tl.int64) * tokens + i_token
    i_kept = (count - 1).to(tl.int64) * tl.num_programs(0) + i_program
    b_K, b_W1, b_b1, b_V, b_eta, b_Q, b_dz = mini_batch(
        q, k, v, dz, eta, W1_kept, b1_kept, count > 0,
        i_view + o_td, i_eta + o_t, i_kept * D * D + o_W1, i_kept * D + o_d, m_td, m_t, m_W1, m_d
    )  # fmt: skip
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)[None, :]
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)[None, :]
    b_tau, b_tau_b = load(tau + o_t, m_t, PADDED), tl.load(tau + b - 1)
    b_cos, b_sin = load_rotation(rotation, o_t[:, None] * D + o_d[None, :], m_td, PADDED, ROTATES)
    b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    for i in tl.range(0, count, disable_licm=True):
        o_view, o_eta = i_view + o_td, i_eta + o_t
        i_view -= b * heads * D
        i_eta -= b
        i_kept -= tl.num_programs(0)
        b_K_next, b_W1_next, b_b1_next, b_V_next, b_eta_next, b_Q_next, b_dz_next = mini_batch(
            q, k, v, dz, eta, W1_kept, b1_kept, i + 1 < count,
            i_view + o_td, i_eta + o_t, i_kept * D * D + o_W1, i_kept * D + o_d, m_td, m_t, m_W1, m_d
        )  # fmt: skip
        dtype = b_K.dtype
        b_b1 = b_b1[None, :]
        # Recompute the forward pass: G, then Z_bar.
        b_target = b_V.to(tl.float32) - b_K.to(tl.float32)
        b_G, b_unit, b_r, b_residual, b_E_unit = loss_gradient_kept(
            dot(b_K, b_W1) + b_b1, b_target, b_scale, b_shift, m_td, D, PADDED
        )
        b_G_half = b_G.to(dtype)
        m_causal = o_t[:, None] >= o_t[None, :]
        b_M = tl.where(m_causal, b_tau[:, None] * b_eta[None, :], 0.0)
        b_S = dot(b_Q, tl.trans(b_K)) + BIAS
        b_A = (-b_M * b_S).to(dtype)
        b_unit_bar, b_r_bar = standardise(dot(b_A, b_G_half, dot(b_Q, b_W1) + b_b1), m_td, D, PADDED)
        # z = q + LN(Z_bar)
        b_dz = b_dz.to(tl.float32)
        b_dscale += tl.sum(b_dz * b_unit_bar, 0)
        b_dshift += tl.sum(b_dz, 0)
        b_dZ_bar = standardise_backward(b_dz * b_scale, b_unit_bar, b_r_bar, m_td, D, PADDED)
        b_dZ_bar_half = b_dZ_bar.to(dtype)
        # Z_bar = Q W + b - (M * S) G
        b_dA = -dot(b_dZ_bar_half, tl.trans(b_G_half))
        b_dS = (b_M * b_dA).to(dtype)
        b_dQ = dot(b_dZ_bar_half, tl.trans(b_W1), dot(b_dS, b_K, b_dz))
        store(dq + o_view, rotate(b_dQ, b_cos, -b_sin, ROTATES), m_td, PADDED)
        b_dM = tl.where(m_causal, b_S * b_dA, 0.0)
        # W_last = W - K^T (tau_b eta G), b_last = b - sum (tau_b eta G)
        if not RESIDENT:
            b_dW1 = load(dW1 + o_dW1, m_W1, PADDED)
        b_dW1_half = b_dW1.to(dtype)
        b_Y = dot(b_K, b_dW1_half) + b_db1[None, :]
        b_d_rate = -tl.sum(b_Y * b_G, 1)
        b_rate = (b_tau_b * b_eta)[:, None]
        b_dK = dot((-b_rate * b_G).to(dtype), tl.trans(b_dW1_half), dot(tl.trans(b_dS), b_Q))
        b_dtau += tl.sum(b_dM * b_eta[None, :], 1) + tl.where(o_t == b - 1, tl.sum(b_d_rate * b_eta, 0), 0.0)
        store(deta + o_eta, tl.sum(b_dM * b_tau[:, None], 0) + b_d_rate * b_tau_b, m_t, PADDED)
        b_dG = dot(tl.trans(b_A), b_dZ_bar_half) - b_rate * b_Y
        b_dZ, b_d_residual, b_dscale_G = loss_gradient_backward(
            b_dG, b_G, b_unit, b_r, b_residual, b_E_unit, b_scale, m_td, D, PADDED
        )
        b_dscale += b_dscale_G
        b_dshift += tl.sum(b_d_residual, 0)
        store(dv + o_view, -b_d_residual, m_td, PADDED)
        b_dZ_half = b_dZ.to(dtype)
        # Z = K W + b
        if not RESIDENT:
            tl.debug_barrier()
            b_dW1 = load(dW1 + o_dW1, m_W1, PADDED)
        b_dW1 = dot(tl.trans(b_K), b_dZ_half, dot(tl.trans(b_Q), b_dZ_bar_half, b_dW1))
        if not RESIDENT:
            store(dW1 + o_dW1, b_dW1, m_W1, PADDED)
        b_db1 += BIAS * tl.sum(b_dZ + b_dZ_bar, 0)
        b_dK = dot(b_dZ_half, tl.trans(b_W1), b_dK + b_d_residual)
        store(dk + o_view, rotate(b_dK, b_cos, -b_sin, ROTATES), m_td, PADDED)
        if not RESIDENT:
            tl.debug_barrier()
        b_K, b_W1, b_b1, b_V, b_eta, b_Q, b_dz = (
            b_K_next, b_W1_next, b_b1_next, b_V_next, b_eta_next, b_Q_next, b_dz_next
        )  # fmt: skip
        b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    if RESIDENT:
        store(dW1 + o_dW1, b_dW1, m_W1, PADDED)
    store(db1 + i_program * D + o_d, b_db1, m_d, PADDED)
    store(dscale + i_program * D + o_d, b_dscale, m_d, PADDED)
    store(dshift + i_program * D + o_d, b_dshift, m_d, PADDED)
    store(dtau + i_program * b + o_t, b_dtau, m_t, PADDED)
