"""TTT-MLP, forward, with W1 and W2 in registers: for D = 64, F = 256 and b = 16.

They are 2 x 64 x 256 floats, half of a multiprocessor's registers, 128 for each of 256 threads. So no other value can
live long: biases are in memory, and Z1 is computed twice, from tiles that are loaded twice, instead of kept while the
gradient of Z2 is computed. In return W does not pass through the L2 cache between the first and the last mini-batch.

Shapes: B batch, H heads, T tokens, D head width, F hidden width, b mini-batch size.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, gelu, gelu_and_slope, loss_gradient, standardise


@triton.jit(do_not_specialize=["count", "tokens", "heads", "shared", "group"])
def mlp_forward_on_chip(
    q, k, v, eta, tau, scale, shift, W1, b1, W2, b2, z, W1_last, b1_last, W2_last, b2_last,
    W1_kept, b1_kept, W2_kept, b2_kept, count, tokens, heads, shared, group,
    D: tl.constexpr, F: tl.constexpr, b: tl.constexpr, BIAS: tl.constexpr, KEEPS: tl.constexpr
):  # fmt: skip
    """Compute z = q + LN(Z2_bar) for all ``count`` mini-batches, and W after them. Arguments as in ``mlp_forward``."""
    program = tl.program_id(0)
    sequence, head = program // heads, program % heads
    row, column, hidden = tl.arange(0, b), tl.arange(0, D), tl.arange(0, F)
    W1_offset, W2_offset = column[:, None] * F + hidden[None, :], hidden[:, None] * D + column[None, :]
    tile = row[:, None] * heads * D + column[None, :]
    origin, last = (program * (1 - shared) + head * shared).to(tl.int64), program.to(tl.int64)
    b1_last += last * F
    b2_last += last * D
    w1, w2 = tl.load(W1 + origin * D * F + W1_offset), tl.load(W2 + origin * D * F + W2_offset)
    tl.store(b1_last + hidden, tl.load(b1 + origin * F + hidden))
    tl.store(b2_last + column, tl.load(b2 + origin * D + column))
    tl.debug_barrier()
    for index in tl.range(0, count, disable_licm=True):
        place = ((sequence.to(tl.int64) * tokens + index * b) * heads + head) * D + tile
        if KEEPS:
            if index % group == 0:
                kept = (index // group).to(tl.int64) * tl.num_programs(0) + program
                tl.store(W1_kept + kept * D * F + W1_offset, w1)
                tl.store(W2_kept + kept * D * F + W2_offset, w2)
                tl.store(b1_kept + kept * F + hidden, tl.load(b1_last + hidden))
                tl.store(b2_kept + kept * D + column, tl.load(b2_last + column))
        K = tl.load(k + place)
        dtype = K.dtype
        w1_half, w2_half = w1.to(dtype), w2.to(dtype)
        X2 = gelu(dot(K, w1_half) + tl.load(b1_last + hidden)[None, :]).to(dtype)
        Z2 = dot(X2, w2_half) + tl.load(b2_last + column)[None, :]
        target = tl.load(v + place).to(tl.float32) - K.to(tl.float32)
        scale_row = tl.load(scale + head * D + column)[None, :]
        G2 = loss_gradient(Z2, target, scale_row, tl.load(shift + head * D + column)[None, :], K, D, False)
        eta_row = tl.load(eta + last * tokens + index * b + row)
        rate = (tl.load(tau + b - 1) * eta_row)[:, None]
        G2_half, step2 = G2.to(dtype), (-rate * G2).to(dtype)
        tl.debug_barrier()
        K, Q = tl.load(k + place), tl.load(q + place)
        M = tl.where(row[:, None] >= row[None, :], -tl.load(tau + row)[:, None] * eta_row[None, :], 0.0)
        A1 = (M * (dot(Q, tl.trans(K)) + BIAS)).to(dtype)
        bias1, bias2 = tl.load(b1_last + hidden), tl.load(b2_last + column)
        X2, slope = gelu_and_slope(dot(K, w1_half) + bias1[None, :])
        X2 = X2.to(dtype)
        G1 = dot(G2_half, tl.trans(w2_half)) * slope
        X2_bar = gelu(dot(A1, G1.to(dtype), dot(Q, w1_half) + bias1[None, :])).to(dtype)
        A2 = (M * (dot(X2_bar, tl.trans(X2)) + BIAS)).to(dtype)
        Z2_bar = dot(A2, G2_half, dot(X2_bar, w2_half) + bias2[None, :])
        unit, _ = standardise(Z2_bar, Q, D, False)
        scale_row, shift_row = tl.load(scale + head * D + column)[None, :], tl.load(shift + head * D + column)[None, :]
        tl.store(z + place, (Q.to(tl.float32) + scale_row * unit + shift_row).to(dtype))
        w2 = dot(tl.trans(X2), step2, w2)
        step1 = -rate * G1
        # Load the biases again instead of keeping them. The barrier: all threads have used what they loaded above.
        tl.debug_barrier()
        tl.store(b1_last + hidden, tl.load(b1_last + hidden) + BIAS * tl.sum(step1, 0))
        tl.store(b2_last + column, tl.load(b2_last + column) - BIAS * tl.sum(rate * G2, 0))
        w1 = dot(tl.trans(K), step1.to(dtype), w1)
        tl.debug_barrier()
    tl.store(W1_last + last * D * F + W1_offset, w1)
    tl.store(W2_last + last * D * F + W2_offset, w2)
