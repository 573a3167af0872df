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


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads"])
def linear_backward(
    q,
    k,
    v,
    eta,
    tau,
    scale,
    shift,
    W1_kept,
    b1_kept,
    dz,
    dq,
    dk,
    dv,
    deta,
    dtau,
    dscale,
    dshift,
    dW1,
    db1,
    first,
    count,
    tokens,
    heads,
    D: tl.constexpr,
    P: tl.constexpr,
    b: tl.constexpr,
    R: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDENT: tl.constexpr,
):
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
    program = tl.program_id(0)
    sequence, head = program // heads, program % heads
    row, column = tl.arange(0, R), tl.arange(0, P)
    PADDED: tl.constexpr = P != D or R != b
    live, in_row = (row < b)[:, None] & (column < D)[None, :], column < D
    in_W = in_row[:, None] & in_row[None, :]
    W_offset, tile = column[:, None] * D + column[None, :], row[:, None] * heads * D + column[None, :]
    last = program.to(tl.int64) * D * D + W_offset
    dW, db = load(dW1 + last, in_W, PADDED), load(db1 + program * D + column, in_row, PADDED)
    d_scale = load(dscale + program * D + column, in_row, PADDED)
    d_shift = load(dshift + program * D + column, in_row, PADDED)
    d_tau = load(dtau + program * b + row, row < b, PADDED)
    for index in range(count):
        mini_batch = count - 1 - index
        token = (first + mini_batch) * b
        place = ((sequence.to(tl.int64) * tokens + token) * heads + head) * D + tile
        rates = program.to(tl.int64) * tokens + token + row
        kept = mini_batch.to(tl.int64) * tl.num_programs(0) + program
        K, Q = load(k + place, live, PADDED), load(q + place, live, PADDED)
        dtype = K.dtype
        W = load(W1_kept + kept * D * D + W_offset, in_W, PADDED)
        bias = load(b1_kept + kept * D + column, in_row, PADDED)[None, :]
        scale_row = load(scale + head * D + column, in_row, PADDED)[None, :]
        shift_row = load(shift + head * D + column, in_row, PADDED)[None, :]
        eta_row, tau_row = load(eta + rates, row < b, PADDED), load(tau + row, row < b, PADDED)
        tau_b = tl.load(tau + b - 1)
        # Recompute the forward pass: G, then Z_bar.
        target = load(v + place, live, PADDED).to(tl.float32) - K.to(tl.float32)
        G, unit, r, residual, E_unit = loss_gradient_kept(
            dot(K, W) + bias, target, scale_row, shift_row, live, D, PADDED
        )
        G_half = G.to(dtype)
        causal = row[:, None] >= row[None, :]
        M = tl.where(causal, tau_row[:, None] * eta_row[None, :], 0.0)
        S = dot(Q, tl.trans(K)) + BIAS
        A = (-M * S).to(dtype)
        unit_bar, r_bar = standardise(dot(A, G_half, dot(Q, W) + bias), live, D, PADDED)
        # z = q + LN(Z_bar)
        dz_tile = load(dz + place, live, PADDED).to(tl.float32)
        d_scale += tl.sum(dz_tile * unit_bar, 0)
        d_shift += tl.sum(dz_tile, 0)
        dZ_bar = standardise_backward(dz_tile * scale_row, unit_bar, r_bar, live, D, PADDED)
        dZ_bar_half = dZ_bar.to(dtype)
        # Z_bar = Q W + b - (M * S) G
        dA = -dot(dZ_bar_half, tl.trans(G_half))
        dS = (M * dA).to(dtype)
        dQ = dot(dZ_bar_half, tl.trans(W), dot(dS, K, dz_tile))
        store(dq + place, dQ, live, PADDED)
        dM = tl.where(causal, S * dA, 0.0)
        # W_last = W - K^T (tau_b eta G), b_last = b - sum (tau_b eta G)
        if not RESIDENT:
            dW = load(dW1 + last, in_W, PADDED)
        dW_half = dW.to(dtype)
        through_step = dot(K, dW_half) + db[None, :]
        d_rate = -tl.sum(through_step * G, 1)
        rate = (tau_b * eta_row)[:, None]
        dK = dot((-rate * G).to(dtype), tl.trans(dW_half), dot(tl.trans(dS), Q))
        d_tau += tl.sum(dM * eta_row[None, :], 1) + tl.where(row == b - 1, tl.sum(d_rate * eta_row, 0), 0.0)
        store(deta + rates, tl.sum(dM * tau_row[:, None], 0) + d_rate * tau_b, row < b, PADDED)
        dG = dot(tl.trans(A), dZ_bar_half) - rate * through_step
        dZ, d_residual, of_scale = loss_gradient_backward(dG, G, unit, r, residual, E_unit, scale_row, live, D, PADDED)
        d_scale += of_scale
        d_shift += tl.sum(d_residual, 0)
        store(dv + place, -d_residual, live, PADDED)
        dZ_half = dZ.to(dtype)
        # Z = K W + b
        # Load these tiles again: kept since the start of the iteration, they would take registers all the way.
        tl.debug_barrier()
        K, Q = load(k + place, live, PADDED), load(q + place, live, PADDED)
        W = load(W1_kept + kept * D * D + W_offset, in_W, PADDED)
        if not RESIDENT:
            dW = load(dW1 + last, in_W, PADDED)
        dW = dot(tl.trans(K), dZ_half, dot(tl.trans(Q), dZ_bar_half, dW))
        if not RESIDENT:
            store(dW1 + last, dW, in_W, PADDED)
        db += BIAS * tl.sum(dZ + dZ_bar, 0)
        store(dk + place, dot(dZ_half, tl.trans(W), dK + d_residual), live, PADDED)
        if not RESIDENT:
            tl.debug_barrier()
    if RESIDENT:
        store(dW1 + last, dW, in_W, PADDED)
    store(db1 + program * D + column, db, in_row, PADDED)
    store(dscale + program * D + column, d_scale, in_row, PADDED)
    store(dshift + program * D + column, d_shift, in_row, PADDED)
    store(dtau + program * b + row, d_tau, row < b, PADDED)
