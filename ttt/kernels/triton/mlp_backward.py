"""TTT-MLP, backward: one program goes back through a group of mini-batches for one head.

dW1 and dW2 are as large as W and stay in memory, where the L2 cache holds them; every mini-batch passes over the hidden
width twice, in blocks: first for what the gradient of G2 needs, then, with dZ2 known, for dW1, dW2 and the rest of dK.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size; tiles as in ``functions``. The
names of the gradients are those of the derivation in ``README.md``: dX is that of the outer loss with respect to X.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import (
    dot,
    gelu_and_slope,
    gelu_slope_and_curvature,
    load,
    loss_gradient_backward,
    loss_gradient_kept,
    standardise,
    standardise_backward,
    store,
)


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads"])
def mlp_backward(
    q, k, v, eta, tau, scale, shift, W1_kept, W2_kept, Z1_kept, Z1_bar_kept, X2_kept, X2_bar_kept, Z2_kept, Z2_bar_kept,
    dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1, db1, dW2, db2, dZ1_part, dH,
    first, count, tokens, heads,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr
):  # fmt: skip
    """Mini-batches ``first + count - 1`` down to ``first``: the gradients of all inputs.

    Arguments as in ``mlp_forward``, and:
        W1_kept: W1 before every mini-batch, [count, B, H, D, F] in the views' type, as W2_kept.
        Z1_bar_kept: as ``mlp_forward`` left it; holds dZ1_bar afterwards.
        dz: [B, T, H, D] in memory, in the views' type, as dq, dk and dv, which are written.
        deta: [B, H, T] float32, written.
        dtau: [B, H, b] float32, added to, as dscale and dshift [B, H, D].
        dW1: [B, H, D, F] float32: on entry with respect to W1 after the mini-batches, on return before them; likewise
            db1, dW2, db2.
        dZ1_part: room for [B, H, b, F] in the views' type, as dH.
    """
    program = tl.program_id(0)
    sequence, head = program // heads, program % heads
    row, column, hidden = tl.arange(0, R), tl.arange(0, P), tl.arange(0, BLOCK)
    PADDED: tl.constexpr = P != D or R != b
    in_row, in_token = column < D, (row < b)[:, None] & (hidden < BLOCK)[None, :]
    live, in_W1 = (row < b)[:, None] & in_row[None, :], in_row[:, None] & (hidden < BLOCK)[None, :]
    in_W2 = (hidden < BLOCK)[:, None] & in_row[None, :]
    W1_offset, W2_offset = column[:, None] * F + hidden[None, :], hidden[:, None] * D + column[None, :]
    tile, hidden_tile = row[:, None] * heads * D + column[None, :], row[:, None] * F + hidden[None, :]
    last = program.to(tl.int64)
    dW1 += last * D * F
    dW2 += last * D * F
    db1 += last * F
    dZ1_part += last * b * F
    dH += last * b * F
    d_bias2 = load(db2 + last * D + column, in_row, PADDED)
    d_scale = load(dscale + last * D + column, in_row, PADDED)
    d_shift = load(dshift + last * D + column, in_row, PADDED)
    d_tau = load(dtau + last * b + row, row < b, PADDED)
    for index in range(count):
        mini_batch = count - 1 - index
        token = (first + mini_batch) * b
        place = ((sequence.to(tl.int64) * tokens + token) * heads + head) * D + tile
        rates = last * tokens + token + row
        kept = mini_batch.to(tl.int64) * tl.num_programs(0) + program
        outer = kept * b * D + row[:, None] * D + column[None, :]
        inner = kept * b * F
        K, Q = load(k + place, live, PADDED), load(q + place, live, PADDED)
        dtype = K.dtype
        scale_row = load(scale + head * D + column, in_row, PADDED)[None, :]
        eta_row, tau_row = load(eta + rates, row < b, PADDED), load(tau + row, row < b, PADDED)
        rate = (tl.load(tau + b - 1) * eta_row)[:, None]
        causal = row[:, None] >= row[None, :]
        M = tl.where(causal, tau_row[:, None] * eta_row[None, :], 0.0)
        # z = q + LN(Z2_bar)
        unit, r = standardise(load(Z2_bar_kept + outer, live, PADDED), live, D, PADDED)
        dz_tile = load(dz + place, live, PADDED).to(tl.float32)
        d_scale += tl.sum(dz_tile * unit, 0)
        d_shift += tl.sum(dz_tile, 0)
        dZ2_bar = standardise_backward(dz_tile * scale_row, unit, r, live, D, PADDED)
        dZ2_bar_half = dZ2_bar.to(dtype)
        # G2 once more.
        shift_row = load(shift + head * D + column, in_row, PADDED)[None, :]
        target = load(v + place, live, PADDED).to(tl.float32) - K.to(tl.float32)
        G2, unit, r, residual, E_unit = loss_gradient_kept(
            load(Z2_kept + outer, live, PADDED), target, scale_row, shift_row, live, D, PADDED
        )
        G2_half, step2 = G2.to(dtype), (-rate * G2).to(dtype)
        # Z2_bar = X2_bar W2 + b2 - (M * S2) G2, S2 = X2_bar X2^T + 1; Z1_bar likewise with S1 = Q K^T + 1.
        dA2 = -dot(dZ2_bar_half, tl.trans(G2_half))
        dS2 = (M * dA2).to(dtype)
        S1 = dot(Q, tl.trans(K)) + BIAS
        A1 = (M * S1).to(dtype)
        S2, dA1 = tl.zeros((R, R), tl.float32), tl.zeros((R, R), tl.float32)
        dQ, dK = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        dG2, through_step2 = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        d_rate = tl.zeros((R,), tl.float32)
        for f in range(0, F, BLOCK):
            at, here = inner + f + hidden_tile, f + hidden_tile
            w1 = load(W1_kept + kept * D * F + f + W1_offset, in_W1, PADDED)
            w2 = load(W2_kept + kept * D * F + f * D + W2_offset, in_W2, PADDED)
            dw1 = load(dW1 + f + W1_offset, in_W1, PADDED).to(dtype)
            dw2 = load(dW2 + f * D + W2_offset, in_W2, PADDED).to(dtype)
            X2, X2_bar = load(X2_kept + at, in_token, PADDED), load(X2_bar_kept + at, in_token, PADDED)
            slope, curvature = gelu_slope_and_curvature(load(Z1_kept + at, in_token, PADDED).to(tl.float32))
            _, slope_bar = gelu_and_slope(load(Z1_bar_kept + at, in_token, PADDED).to(tl.float32))
            H = dot(G2_half, tl.trans(w2))
            G1 = H * slope
            dX2_bar = dot(dS2, X2, dot(dZ2_bar_half, tl.trans(w2)))
            dZ1_bar = dX2_bar * slope_bar
            dZ1_bar_half = dZ1_bar.to(dtype)
            dX2 = dot(tl.trans(dS2), X2_bar, dot(step2, tl.trans(dw2)))
            through_step1 = dot(K, dw1) + tl.load(db1 + f + hidden)[None, :]
            d_rate -= tl.sum(through_step1 * G1, 1)
            dG1 = -dot(tl.trans(A1), dZ1_bar_half) - rate * through_step1
            dH_tile = (dG1 * slope).to(dtype)
            store(dZ1_part + here, dG1 * H * curvature + dX2 * slope, in_token, PADDED)
            store(dH + here, dH_tile, in_token, PADDED)
            store(Z1_bar_kept + at, dZ1_bar_half, in_token, PADDED)
            S2 = dot(X2_bar, tl.trans(X2), S2)
            dA1 = dot(dZ1_bar_half, tl.trans(G1.to(dtype)), dA1)
            dK = dot((-rate * G1).to(dtype), tl.trans(dw1), dK)
            dQ = dot(dZ1_bar_half, tl.trans(w1), dQ)
            through_step2 = dot(X2, dw2, through_step2)
            dG2 = dot(dH_tile, w2, dG2)
        S2 += BIAS
        dS1 = (-M * dA1).to(dtype)
        store(dq + place, dot(dS1, K, dQ) + load(dz + place, live, PADDED).to(tl.float32), live, PADDED)
        dK = dot(tl.trans(dS1), Q, dK)
        through_step2 += d_bias2[None, :]
        d_rate -= tl.sum(through_step2 * G2, 1)
        dM = tl.where(causal, S2 * dA2 - S1 * dA1, 0.0)
        d_tau += tl.sum(dM * eta_row[None, :], 1) + tl.where(row == b - 1, tl.sum(d_rate * eta_row, 0), 0.0)
        store(deta + rates, tl.sum(dM * tau_row[:, None], 0) + d_rate * tl.load(tau + b - 1), row < b, PADDED)
        dG2 = dot(tl.trans((-M * S2).to(dtype)), dZ2_bar_half, dG2) - rate * through_step2
        dZ2, d_residual, of_scale = loss_gradient_backward(
            dG2, G2, unit, r, residual, E_unit, scale_row, live, D, PADDED
        )
        d_scale += of_scale
        d_shift += tl.sum(d_residual, 0)
        store(dv + place, -d_residual, live, PADDED)
        dK += d_residual
        dZ2_half = dZ2.to(dtype)
        d_bias2 += BIAS * tl.sum(dZ2 + dZ2_bar, 0)
        # What the first pass stored is read in other places.
        tl.debug_barrier()
        for f in range(0, F, BLOCK):
            at, here = inner + f + hidden_tile, f + hidden_tile
            w1 = load(W1_kept + kept * D * F + f + W1_offset, in_W1, PADDED)
            w2 = load(W2_kept + kept * D * F + f * D + W2_offset, in_W2, PADDED)
            X2, X2_bar = load(X2_kept + at, in_token, PADDED), load(X2_bar_kept + at, in_token, PADDED)
            _, slope = gelu_and_slope(load(Z1_kept + at, in_token, PADDED).to(tl.float32))
            dZ1_bar = load(Z1_bar_kept + at, in_token, PADDED)
            dZ1 = dot(dZ2_half, tl.trans(w2)) * slope + load(dZ1_part + here, in_token, PADDED).to(tl.float32)
            dZ1_half = dZ1.to(dtype)
            dw1 = dot(tl.trans(Q), dZ1_bar, load(dW1 + f + W1_offset, in_W1, PADDED))
            store(dW1 + f + W1_offset, dot(tl.trans(K), dZ1_half, dw1), in_W1, PADDED)
            d_bias1 = tl.sum(dZ1 + dZ1_bar.to(tl.float32), 0)
            tl.store(db1 + f + hidden, tl.load(db1 + f + hidden) + BIAS * d_bias1)
            dw2 = dot(tl.trans(X2_bar), dZ2_bar_half, load(dW2 + f * D + W2_offset, in_W2, PADDED))
            dw2 = dot(tl.trans(load(dH + here, in_token, PADDED)), G2_half, dw2)
            store(dW2 + f * D + W2_offset, dot(tl.trans(X2), dZ2_half, dw2), in_W2, PADDED)
            dK = dot(dZ1_half, tl.trans(w1), dK)
        store(dk + place, dK, live, PADDED)
        tl.debug_barrier()
    store(db2 + last * D + column, d_bias2, in_row, PADDED)
    store(dscale + last * D + column, d_scale, in_row, PADDED)
    store(dshift + last * D + column, d_shift, in_row, PADDED)
    store(dtau + last * b + row, d_tau, row < b, PADDED)
