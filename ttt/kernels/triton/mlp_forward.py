"""TTT-MLP, forward, for any sizes: W is streamed from memory in blocks of the hidden width.

W1 and W2 are 2 x 64 x 256 floats per head at D = 64, as much as a whole register file. Here they stay in the memory of
W_last, which the L2 cache holds while a program works on it. Each mini-batch reads them twice and writes them once: the
first pass computes Z2, on which all gradients depend, the second everything else.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size; tiles as in ``functions``.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, gelu, gelu_and_slope, load, loss_gradient, standardise, store


@triton.jit
def copy_weights(
    W1, b1, W2, W1_to, b1_to, W2_to, in_W1, in_W2, W1_offset, W2_offset, F: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """Copy W1 [D, F], b1 [F] and W2 [F, D] of one head."""
    hidden = tl.arange(0, BLOCK)
    for f in range(0, F, BLOCK):
        store(W1_to + f + W1_offset, load(W1 + f + W1_offset, in_W1, PADDED), in_W1, PADDED)
        store(W2_to + f * D + W2_offset, load(W2 + f * D + W2_offset, in_W2, PADDED), in_W2, PADDED)
        tl.store(b1_to + f + hidden, tl.load(b1 + f + hidden))


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads", "shared", "group"])
def mlp_forward(
    q, k, v, eta, tau, scale, shift, W1, b1, W2, b2, z, W1_last, b1_last, W2_last, b2_last,
    W1_kept, b1_kept, W2_kept, b2_kept, G1_kept, G2_kept,
    first, count, tokens, heads, shared, group,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, b: tl.constexpr, R: tl.constexpr,
    BIAS: tl.constexpr, OUTPUTS: tl.constexpr, KEEPS: tl.constexpr
):  # fmt: skip
    """Compute z = q + LN(Z2_bar) for mini-batches ``first`` to ``first + count - 1``, and W after them.

    Args:
        q: test view, [B, T, H, D] in memory, as k, v and z.
        k: train view.
        v: label view.
        eta: inner learning rate, [B, H, T] float32.
        tau: token scale, [b] float32.
        scale: of LN, [H, D] float32.
        shift: of LN, [H, D] float32.
        W1: W1 before mini-batch ``first``, [B, H, D, F] float32, or [H, D, F] if ``shared``, as b1, W2 and b2.
        b1: [B, H, F].
        W2: [B, H, F, D].
        b2: [B, H, D].
        z: output, written if OUTPUTS.
        W1_last: W1 after the last mini-batch, [B, H, D, F] float32, as b1_last, W2_last and b2_last; W between
            mini-batches is in the same memory.
        b1_last: [B, H, F].
        W2_last: [B, H, F, D].
        b2_last: [B, H, D].
        W1_kept: W1 before every ``group``-th mini-batch, [groups, B, H, D, F] float32, written if KEEPS, as b1_kept,
            W2_kept and b2_kept.
        b1_kept: [groups, B, H, F].
        W2_kept: [groups, B, H, F, D].
        b2_kept: [groups, B, H, D].
        G1_kept: G1 for the backward pass, [count, B, H, b, F] in the views' type, written if not OUTPUTS, as G2_kept.
        G2_kept: [count, B, H, b, D].
        first: index of the first mini-batch.
        count: number of mini-batches.
        tokens: T.
        heads: H.
        shared: 1 if all sequences start from the same W, else 0.
        group: mini-batches per kept W.
        D: head width.
        P: D padded.
        F: hidden width, a multiple of BLOCK.
        BLOCK: hidden units per step.
        b: mini-batch size.
        R: b padded.
        BIAS: 1, or 0 for an inner model without biases.
        OUTPUTS: whether z is written; if not, G1 and G2 are.
        KEEPS: whether W is kept.
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
    origin = (program * (1 - shared) + head * shared).to(tl.int64)
    last = program.to(tl.int64)
    W1_last += last * D * F
    W2_last += last * D * F
    b1_last += last * F
    copy_weights(
        W1 + origin * D * F, b1 + origin * F, W2 + origin * D * F, W1_last, b1_last, W2_last,
        in_W1, in_W2, W1_offset, W2_offset, F, D, BLOCK, PADDED
    )  # fmt: skip
    bias2 = load(b2 + origin * D + column, in_row, PADDED)
    tl.debug_barrier()
    for index in tl.range(0, count, disable_licm=True):
        token = sequence.to(tl.int64) * tokens + (first + index) * b
        place = (token * heads + head) * D + tile
        kept = ((index // group).to(tl.int64)) * tl.num_programs(0) + program
        keeps = index % group == 0
        K = load(k + place, live, PADDED)
        dtype = K.dtype
        Z2 = tl.zeros((R, P), tl.float32)
        for f in range(0, F, BLOCK):
            w1 = load(W1_last + f + W1_offset, in_W1, PADDED)
            w2 = load(W2_last + f * D + W2_offset, in_W2, PADDED)
            bias1 = tl.load(b1_last + f + hidden)
            if KEEPS:
                if keeps:
                    store(W1_kept + kept * D * F + f + W1_offset, w1, in_W1, PADDED)
                    store(W2_kept + kept * D * F + f * D + W2_offset, w2, in_W2, PADDED)
                    tl.store(b1_kept + kept * F + f + hidden, bias1)
            Z1 = dot(K, w1.to(dtype)) + bias1[None, :]
            Z2 = dot(gelu(Z1).to(dtype), w2.to(dtype), Z2)
        Z2 += bias2[None, :]
        if KEEPS:
            if keeps:
                store(b2_kept + kept * D + column, bias2, in_row, PADDED)
        scale_row = load(scale + head * D + column, in_row, PADDED)[None, :]
        shift_row = load(shift + head * D + column, in_row, PADDED)[None, :]
        target = load(v + place, live, PADDED).to(tl.float32) - K.to(tl.float32)
        G2 = loss_gradient(Z2, target, scale_row, shift_row, live, D, PADDED)
        eta_row = load(eta + program.to(tl.int64) * tokens + (first + index) * b + row, row < b, PADDED)
        rate = tl.load(tau + b - 1) * eta_row
        # G1 and G2 are rounded before they are multiplied by the rate: the backward pass undoes exactly these steps.
        G2_half = G2.to(dtype)
        step2 = -rate[:, None] * G2_half.to(tl.float32)
        bias2_before = bias2
        bias2 += BIAS * tl.sum(step2, 0)
        step2_half = step2.to(dtype)
        if OUTPUTS:
            Q = load(q + place, live, PADDED)
            tau_row = load(tau + row, row < b, PADDED)
            M = tl.where(row[:, None] >= row[None, :], -tau_row[:, None] * eta_row[None, :], 0.0)
            A1 = (M * (dot(Q, tl.trans(K)) + BIAS)).to(dtype)
            Z2_bar, S2 = tl.zeros((R, P), tl.float32), tl.zeros((R, R), tl.float32)
        else:
            inner = (index * tl.num_programs(0) + program).to(tl.int64) * b
            store(G2_kept + inner * D + row[:, None] * D + column[None, :], G2_half, live, PADDED)
        for f in range(0, F, BLOCK):
            w1_at, w2_at = W1_last + f + W1_offset, W2_last + f * D + W2_offset
            bias1 = tl.load(b1_last + f + hidden)
            w1, w2 = load(w1_at, in_W1, PADDED), load(w2_at, in_W2, PADDED)
            w1_half, w2_half = w1.to(dtype), w2.to(dtype)
            Z1 = dot(K, w1_half) + bias1[None, :]
            X2, slope = gelu_and_slope(Z1)
            X2 = X2.to(dtype)
            G1 = (dot(G2_half, tl.trans(w2_half)) * slope).to(dtype)
            if OUTPUTS:
                X2_bar = gelu(dot(A1, G1, dot(Q, w1_half) + bias1[None, :])).to(dtype)
                S2 = dot(X2_bar, tl.trans(X2), S2)
            else:
                store(G1_kept + inner * F + f + hidden_tile, G1, in_token, PADDED)
            step1 = -rate[:, None] * G1.to(tl.float32)
            store(w1_at, dot(tl.trans(K), step1.to(dtype), w1), in_W1, PADDED)
            store(w2_at, dot(tl.trans(X2), step2_half, w2), in_W2, PADDED)
            tl.store(b1_last + f + hidden, bias1 + BIAS * tl.sum(step1, 0))
            if OUTPUTS:
                Z2_bar = dot(X2_bar, w2_half, Z2_bar)
        if OUTPUTS:
            A2 = (M * (S2 + BIAS)).to(dtype)
            Z2_bar = dot(A2, G2_half, Z2_bar + bias2_before[None, :])
            scale_row = load(scale + head * D + column, in_row, PADDED)[None, :]
            shift_row = load(shift + head * D + column, in_row, PADDED)[None, :]
            unit, _ = standardise(Z2_bar, live, D, PADDED)
            store(z + place, Q.to(tl.float32) + scale_row * unit + shift_row, live, PADDED)
        # All threads have written their part of W before any of them reads it.
        tl.debug_barrier()
    store(b2_last + last * D + column, bias2, in_row, PADDED)
