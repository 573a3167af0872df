"""TTT-MLP, backward: one program recomputes the groups of mini-batches of one head, last group first, and goes back.

For each mini-batch of a group only G1 and G2 are kept, a thirteenth of W; from them and W after the mini-batch follows
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
from ttt.kernels.triton.mlp_forward import mlp_forward


@triton.jit
def take_back(
    K, Q, A1, rate, back2, W1, b1, W2, G1_kept, Z1_room, Z1_bar_room, X2_room, X2_bar_room,
    in_W1, in_W2, in_token, W1_offset, W2_offset, hidden_tile,
    F: tl.constexpr, D: tl.constexpr, P: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
    PADDED: tl.constexpr
):  # fmt: skip
    """Restore W1, b1, W2 of one head to their values before a mini-batch, and store the mini-batch's activations.

    ``back2`` = rate * G2 is what each token subtracted; A1 = -M * S1. Returns Z2 without b2, Z2_bar without b2 and
    without the term of G2, and X2_bar X2^T.
    """
    hidden = tl.arange(0, BLOCK)
    dtype = K.dtype
    Z2, Z2_bar = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
    S2 = tl.zeros((R, R), tl.float32)
    for f in range(0, F, BLOCK):
        w1_at, w2_at, here = W1 + f + W1_offset, W2 + f * D + W2_offset, f + hidden_tile
        G1 = load(G1_kept + here, in_token, PADDED)
        back1 = rate * G1.to(tl.float32)
        w1 = dot(tl.trans(K), back1.to(dtype), load(w1_at, in_W1, PADDED))
        bias1 = tl.load(b1 + f + hidden) + BIAS * tl.sum(back1, 0)
        store(w1_at, w1, in_W1, PADDED)
        w1_half = w1.to(dtype)
        Z1 = dot(K, w1_half) + bias1[None, :]
        X2 = gelu(Z1).to(dtype)
        w2 = dot(tl.trans(X2), back2, load(w2_at, in_W2, PADDED))
        store(w2_at, w2, in_W2, PADDED)
        w2_half = w2.to(dtype)
        Z1_bar = dot(A1, G1, dot(Q, w1_half) + bias1[None, :])
        X2_bar = gelu(Z1_bar).to(dtype)
        store(Z1_room + here, Z1, in_token, PADDED)
        store(Z1_bar_room + here, Z1_bar, in_token, PADDED)
        store(X2_room + here, X2, in_token, PADDED)
        store(X2_bar_room + here, X2_bar, in_token, PADDED)
        S2 = dot(X2_bar, tl.trans(X2), S2)
        # After the products, which no warp begins before all have read the bias.
        tl.store(b1 + f + hidden, bias1)
        Z2 = dot(X2, w2_half, Z2)
        Z2_bar = dot(X2_bar, w2_half, Z2_bar)
    return Z2, Z2_bar, S2


@triton.jit
def reverse(
    q, k, v, eta, tau, scale, shift, W1_last, b1_last, W2_last, b2_last, G1_kept, G2_kept,
    dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1, db1, dW2, db2,
    Z1_room, Z1_bar_room, X2_room, X2_bar_room, dZ1_part, dH,
    first, count, tokens, heads,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr
):  # fmt: skip
    """Compute the gradients for mini-batches ``first + count - 1`` down to ``first``. Arguments as in ``mlp_backward``.

    Except that W1_last, b1_last, W2_last, dW1, db1, dW2 and Z1_room to dH point to the part of this program. W1_last,
    b1_last and W2_last hold W after the mini-batches on entry and before them on return; b2_last is after them.
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
    bias2 = load(b2_last + last * D + column, in_row, PADDED)
    d_bias2 = load(db2 + last * D + column, in_row, PADDED)
    d_scale = load(dscale + last * D + column, in_row, PADDED)
    d_shift = load(dshift + last * D + column, in_row, PADDED)
    d_tau = load(dtau + last * b + row, row < b, PADDED)
    for index in tl.range(0, count, disable_licm=True):
        mini_batch = count - 1 - index
        token = (first + mini_batch) * b
        place = ((sequence.to(tl.int64) * tokens + token) * heads + head) * D + tile
        rates = last * tokens + token + row
        kept = mini_batch.to(tl.int64) * tl.num_programs(0) + program
        K, Q = load(k + place, live, PADDED), load(q + place, live, PADDED)
        dtype = K.dtype
        scale_row = load(scale + head * D + column, in_row, PADDED)[None, :]
        eta_row, tau_row = load(eta + rates, row < b, PADDED), load(tau + row, row < b, PADDED)
        rate = (tl.load(tau + b - 1) * eta_row)[:, None]
        causal = row[:, None] >= row[None, :]
        M = tl.where(causal, tau_row[:, None] * eta_row[None, :], 0.0)
        S1 = dot(Q, tl.trans(K)) + BIAS
        A1 = (M * S1).to(dtype)
        G2_half = load(G2_kept + kept * b * D + row[:, None] * D + column[None, :], live, PADDED)
        back2 = rate * G2_half.to(tl.float32)
        bias2 += BIAS * tl.sum(back2, 0)
        back2_half = back2.to(dtype)
        Z2, Z2_bar, S2 = take_back(
            K, Q, -A1, rate, back2_half, W1_last, b1_last, W2_last, G1_kept + kept * b * F,
            Z1_room, Z1_bar_room, X2_room, X2_bar_room, in_W1, in_W2, in_token, W1_offset, W2_offset, hidden_tile,
            F, D, P, R, BLOCK, BIAS, PADDED
        )  # fmt: skip
        S2 += BIAS
        # z = q + LN(Z2_bar)
        Z2_bar = dot(-(M * S2).to(dtype), G2_half, Z2_bar + bias2[None, :])
        unit, r = standardise(Z2_bar, live, D, PADDED)
        dz_tile = load(dz + place, live, PADDED).to(tl.float32)
        d_scale += tl.sum(dz_tile * unit, 0)
        d_shift += tl.sum(dz_tile, 0)
        dZ2_bar = standardise_backward(dz_tile * scale_row, unit, r, live, D, PADDED)
        dZ2_bar_half = dZ2_bar.to(dtype)
        # Recompute G2.
        shift_row = load(shift + head * D + column, in_row, PADDED)[None, :]
        target = load(v + place, live, PADDED).to(tl.float32) - K.to(tl.float32)
        G2, unit, r, residual, E_unit = loss_gradient_kept(
            Z2 + bias2[None, :], target, scale_row, shift_row, live, D, PADDED
        )
        # Z2_bar = X2_bar W2 + b2 - (M * S2) G2, S2 = X2_bar X2^T + 1; Z1_bar likewise with S1 = Q K^T + 1.
        dA2 = -dot(dZ2_bar_half, tl.trans(G2_half))
        dS2 = (M * dA2).to(dtype)
        dA1 = tl.zeros((R, R), tl.float32)
        dQ, dK = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        dG2, through_step2 = tl.zeros((R, P), tl.float32), tl.zeros((R, P), tl.float32)
        d_rate = tl.zeros((R,), tl.float32)
        # Other threads read what this one has stored.
        tl.debug_barrier()
        for f in range(0, F, BLOCK):
            here = f + hidden_tile
            w1 = load(W1_last + f + W1_offset, in_W1, PADDED).to(dtype)
            w2 = load(W2_last + f * D + W2_offset, in_W2, PADDED).to(dtype)
            dw1 = load(dW1 + f + W1_offset, in_W1, PADDED).to(dtype)
            dw2 = load(dW2 + f * D + W2_offset, in_W2, PADDED).to(dtype)
            X2, X2_bar = load(X2_room + here, in_token, PADDED), load(X2_bar_room + here, in_token, PADDED)
            slope, curvature = gelu_slope_and_curvature(load(Z1_room + here, in_token, PADDED).to(tl.float32))
            _, slope_bar = gelu_and_slope(load(Z1_bar_room + here, in_token, PADDED).to(tl.float32))
            H = dot(G2_half, tl.trans(w2))
            G1 = H * slope
            dX2_bar = dot(dS2, X2, dot(dZ2_bar_half, tl.trans(w2)))
            dZ1_bar = dX2_bar * slope_bar
            dZ1_bar_half = dZ1_bar.to(dtype)
            dX2 = dot(tl.trans(dS2), X2_bar, dot(-back2_half, tl.trans(dw2)))
            through_step1 = dot(K, dw1) + tl.load(db1 + f + hidden)[None, :]
            d_rate -= tl.sum(through_step1 * G1, 1)
            dG1 = -dot(tl.trans(A1), dZ1_bar_half) - rate * through_step1
            dH_tile = (dG1 * slope).to(dtype)
            store(dZ1_part + here, dG1 * H * curvature + dX2 * slope, in_token, PADDED)
            store(dH + here, dH_tile, in_token, PADDED)
            store(Z1_bar_room + here, dZ1_bar_half, in_token, PADDED)
            dA1 = dot(dZ1_bar_half, tl.trans(G1.to(dtype)), dA1)
            dK = dot((-rate * G1).to(dtype), tl.trans(dw1), dK)
            dQ = dot(dZ1_bar_half, tl.trans(w1), dQ)
            through_step2 = dot(X2, dw2, through_step2)
            dG2 = dot(dH_tile, w2, dG2)
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
        # Other threads read what this one has stored in the second pass.
        tl.debug_barrier()
        for f in range(0, F, BLOCK):
            here = f + hidden_tile
            w1 = load(W1_last + f + W1_offset, in_W1, PADDED).to(dtype)
            w2 = load(W2_last + f * D + W2_offset, in_W2, PADDED).to(dtype)
            X2, X2_bar = load(X2_room + here, in_token, PADDED), load(X2_bar_room + here, in_token, PADDED)
            _, slope = gelu_and_slope(load(Z1_room + here, in_token, PADDED).to(tl.float32))
            dZ1_bar = load(Z1_bar_room + here, in_token, PADDED)
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


@triton.jit(do_not_specialize=["mini_batches", "tokens", "heads", "group"])
def mlp_backward(
    q, k, v, eta, tau, scale, shift, W1_kept, b1_kept, W2_kept, b2_kept, W1_last, b1_last, W2_last, b2_last,
    G1_kept, G2_kept, dz, dq, dk, dv, deta, dtau, dscale, dshift, dW1, db1, dW2, db2,
    Z1_room, Z1_bar_room, X2_room, X2_bar_room, dZ1_part, dH,
    mini_batches, tokens, heads, group,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr
):  # fmt: skip
    """Compute the gradients of all inputs from those of z and of W after the last mini-batch.

    The arguments of ``mlp_forward``, and:
        W1_kept: W1 before each group, [groups, B, H, D, F] float32, as b1_kept, W2_kept, b2_kept.
        W1_last: scratch for W1, [B, H, D, F] float32, as b1_last, W2_last, b2_last.
        G1_kept: scratch for G1 of one group, [group, B, H, b, F] in the views' type, as G2_kept [group, B, H, b, D].
        dz: gradient of z, [B, T, H, D] in memory, in the views' type, as dq, dk and dv, which are written.
        deta: [B, H, T] float32, written.
        dtau: [B, H, b] float32, added to, as dscale and dshift [B, H, D].
        dW1: [B, H, D, F] float32: on entry the gradient of W1 after the mini-batches, on return of W1 before them;
            likewise db1, dW2, db2.
        Z1_room: scratch for Z1 of one mini-batch, [B, H, b, F] in the views' type, as Z1_bar_room to dH.
        mini_batches: number of mini-batches.
    """
    program = tl.program_id(0).to(tl.int64)
    W1_own, own = program * D * F, program * b * F
    groups = tl.cdiv(mini_batches, group)
    for number in tl.range(0, groups, disable_licm=True):
        first = (groups - 1 - number) * group
        count = tl.minimum(group, mini_batches - first)
        kept = (groups - 1 - number).to(tl.int64) * tl.num_programs(0)
        mlp_forward(
            q, k, v, eta, tau, scale, shift, W1_kept + kept * D * F, b1_kept + kept * F, W2_kept + kept * D * F,
            b2_kept + kept * D, dq, W1_last, b1_last, W2_last, b2_last, W1_kept, b1_kept, W2_kept, b2_kept,
            G1_kept, G2_kept, first, count, tokens, heads, 0, group, D, P, F, BLOCK, b, R, BIAS, False, False
        )  # fmt: skip
        # All threads have written what the next function reads.
        tl.debug_barrier()
        reverse(
            q, k, v, eta, tau, scale, shift, W1_last + W1_own, b1_last + program * F, W2_last + W1_own, b2_last,
            G1_kept, G2_kept, dz, dq, dk, dv, deta, dtau, dscale, dshift,
            dW1 + W1_own, db1 + program * F, dW2 + W1_own, db2,
            Z1_room + own, Z1_bar_room + own, X2_room + own, X2_bar_room + own, dZ1_part + own, dH + own,
            first, count, tokens, heads, D, P, F, BLOCK, b, R, BIAS
        )  # fmt: skip
        tl.debug_barrier()
