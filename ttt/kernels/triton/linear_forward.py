"""TTT-Linear, forward: one program computes all mini-batches of one head of one sequence, with W in registers.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size; tiles as in ``functions``.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, load, loss_gradient, standardise, store
from ttt.kernels.triton.rotation import load_rotation, rotate


@triton.jit
def mini_batch(
    q, k, v, eta,
    exists, o_view, o_eta, m_td, m_t,
    OUTPUTS: tl.constexpr
):  # fmt: skip
    """Return the tiles of K, V, Q, and eta [R] of a mini-batch, 0 if it does not exist. Without OUTPUTS Q is K."""
    m_views = m_td & exists
    b_K = tl.load(k + o_view, mask=m_views, other=0.0)
    b_V = tl.load(v + o_view, mask=m_views, other=0.0)
    b_eta = tl.load(eta + o_eta, mask=m_t & exists, other=0.0)
    b_Q = tl.load(q + o_view, mask=m_views, other=0.0) if OUTPUTS else b_K
    return b_K, b_V, b_Q, b_eta


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads", "shared", "group"])
def linear_forward(
    q, k, v, eta, tau, scale, shift, rotation,
    W1, b1, z, W1_last, b1_last, W1_kept, b1_kept,
    first, count, tokens, heads, shared, group,
    D: tl.constexpr, P: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, ROTATES: tl.constexpr, OUTPUTS: tl.constexpr, KEEPS: tl.constexpr
):  # fmt: skip
    """Compute z = q + LN(Z_bar) for mini-batches ``first`` to ``first + count - 1``, and W after them.

    Args:
        q: test view, [B, T, H, D] in memory, as k, v and z.
        k: train view.
        v: label view.
        eta: inner learning rate, [B, H, T] float32.
        tau: token scale, [b] float32.
        scale: of LN, [H, D] float32.
        shift: of LN, [H, D] float32.
        rotation: cosines and sines of RoPE, [b, D] float32, see ``rotation.py``; not read without ROTATES.
        W1: W1 before mini-batch ``first``, [B, H, D, D] float32, or [H, D, D] if ``shared``.
        b1: b1 before mini-batch ``first``, [B, H, D] float32, or [H, D] if ``shared``.
        z: output, written if OUTPUTS.
        W1_last: W1 after the last mini-batch, [B, H, D, D] float32, written.
        b1_last: b1 after the last mini-batch, [B, H, D] float32, written.
        W1_kept: W1 before every ``group``-th mini-batch, [groups, B, H, D, D], written if KEEPS.
        b1_kept: b1 before every ``group``-th mini-batch, [groups, B, H, D] float32, written if KEEPS.
        first: index of the first mini-batch.
        count: number of mini-batches.
        tokens: T.
        heads: H.
        shared: 1 if all sequences start from the same W, else 0.
        group: mini-batches per kept W.
        D: head width.
        P: D padded.
        b: mini-batch size.
        R: b padded.
        BIAS: 1, or 0 for an inner model without biases.
        ROTATES: whether q and k are rotated here.
        OUTPUTS: whether z is computed.
        KEEPS: whether W is kept.
    """
    i_program = tl.program_id(0)
    i_sequence, i_head = i_program // heads, i_program % heads
    o_t, o_d = tl.arange(0, R), tl.arange(0, P)
    PADDED: tl.constexpr = P != D or R != b
    m_t, m_d = o_t < b, o_d < D
    m_td, m_W1 = m_t[:, None] & m_d[None, :], m_d[:, None] & m_d[None, :]
    o_W1, o_td = o_d[:, None] * D + o_d[None, :], o_t[:, None] * heads * D + o_d[None, :]
    i_start = i_program * (1 - shared) + i_head * shared
    b_W1 = load(W1 + i_start.to(tl.int64) * D * D + o_W1, m_W1, PADDED)
    b_b1 = load(b1 + i_start * D + o_d, m_d, PADDED)
    b_scale = load(scale + i_head * D + o_d, m_d, PADDED)[None, :]
    b_shift = load(shift + i_head * D + o_d, m_d, PADDED)[None, :]
    b_tau, b_tau_b = load(tau + o_t, m_t, PADDED), tl.load(tau + b - 1)
    b_cos, b_sin = load_rotation(rotation, o_t[:, None] * D + o_d[None, :], m_td, PADDED, ROTATES)
    # The next mini-batch is loaded while this one is computed: its loads take as long as a third of the computation.
    i_view = ((i_sequence.to(tl.int64) * tokens + first * b) * heads + i_head) * D
    i_eta = i_program.to(tl.int64) * tokens + first * b
    b_K, b_V, b_Q, b_eta = mini_batch(q, k, v, eta, count > 0, i_view + o_td, i_eta + o_t, m_td, m_t, OUTPUTS)
    b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    i_next_kept, i_kept = 0, i_program.to(tl.int64)
    for i in range(count):
        o_view = i_view + o_td
        i_view += b * heads * D
        i_eta += b
        b_K_next, b_V_next, b_Q_next, b_eta_next = mini_batch(
            q, k, v, eta, i + 1 < count, i_view + o_td, i_eta + o_t, m_td, m_t, OUTPUTS
        )
        if KEEPS:
            if i == i_next_kept:
                store(W1_kept + i_kept * D * D + o_W1, b_W1, m_W1, PADDED)
                store(b1_kept + i_kept * D + o_d, b_b1, m_d, PADDED)
                i_next_kept += group
                i_kept += tl.num_programs(0)
        dtype = b_K.dtype
        b_W1_half = b_W1.to(dtype)
        b_target = b_V.to(tl.float32) - b_K.to(tl.float32)
        b_G = loss_gradient(dot(b_K, b_W1_half) + b_b1[None, :], b_target, b_scale, b_shift, m_td, D, PADDED)
        # W is updated before the outputs are computed: the last product of the loop decides how warps are laid out for
        # all of them. If the update of W came last, each warp would hold all rows of a mini-batch's tiles.
        b_step = -b_tau_b * b_eta[:, None] * b_G
        b_W1 = dot(tl.trans(b_K), b_step.to(dtype), b_W1)
        b_b1_before = b_b1
        b_b1 += BIAS * tl.sum(b_step, 0)
        if OUTPUTS:
            b_M = tl.where(o_t[:, None] >= o_t[None, :], b_tau[:, None] * b_eta[None, :], 0.0)
            b_A = (-b_M * (dot(b_Q, tl.trans(b_K)) + BIAS)).to(dtype)
            b_Z_bar = dot(b_A, b_G.to(dtype), dot(b_Q, b_W1_half) + b_b1_before[None, :])
            b_unit, _ = standardise(b_Z_bar, m_td, D, PADDED)
            store(z + o_view, b_Q.to(tl.float32) + b_scale * b_unit + b_shift, m_td, PADDED)
        b_K, b_V, b_Q, b_eta = b_K_next, b_V_next, b_Q_next, b_eta_next
        b_K, b_Q = rotate(b_K, b_cos, b_sin, ROTATES), rotate(b_Q, b_cos, b_sin, ROTATES)
    o_last = i_program.to(tl.int64) * D * D + o_W1
    store(W1_last + o_last, b_W1, m_W1, PADDED)
    store(b1_last + i_program * D + o_d, b_b1, m_d, PADDED)
