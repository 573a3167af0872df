"""TTT-MLP, one token: z, and the state after it, in blocks of the hidden width.

W is read twice, the second time from a cache: all gradients depend on Z2, a sum over the whole hidden width. The state
is that of ``linear_decode``.

Shapes: B batch, H heads, D head width, F hidden width, b mini-batch size; P is D padded to a power of two.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import gelu, gelu_and_slope, load, loss_gradient, standardise, store


@triton.jit(do_not_specialize=["place", "heads", "shared"])
def mlp_decode(
    q, k, v, eta, tau, scale, shift, W1, b1, W2, b2, W1_sum, b1_sum, W2_sum, b2_sum, z,
    W1_next, b1_next, W2_next, b2_next, place, heads, shared,
    D: tl.constexpr, P: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr, BEGUN: tl.constexpr,
    ENDS: tl.constexpr
):  # fmt: skip
    """Compute z and the next state. Arguments as in ``linear_decode``, with W1 [B, H, D, F] and W2 [B, H, F, D].

    b1 is [B, H, F] and b2 [B, H, D]. F is the hidden width, a multiple of BLOCK, the number of hidden units per step.
    """
    program = tl.program_id(0)
    head = program % heads
    column, hidden = tl.arange(0, P), tl.arange(0, BLOCK)
    PADDED: tl.constexpr = P != D
    in_row = column < D
    in_W1, in_W2 = in_row[:, None] & (hidden < BLOCK)[None, :], (hidden < BLOCK)[:, None] & in_row[None, :]
    live = in_row[None, :]
    origin = (program * (1 - shared) + head * shared).to(tl.int64)
    here = program.to(tl.int64)
    W1_offset, W2_offset = column[:, None] * F + hidden[None, :], hidden[:, None] * D + column[None, :]
    K = load(k + here * D + column, in_row, PADDED).to(tl.float32)
    Q = load(q + here * D + column, in_row, PADDED).to(tl.float32)
    target = load(v + here * D + column, in_row, PADDED).to(tl.float32) - K
    scale_row = load(scale + head * D + column, in_row, PADDED)
    shift_row = load(shift + head * D + column, in_row, PADDED)
    bias2 = load(b2 + origin * D + column, in_row, PADDED)
    Z2 = bias2
    for f in range(0, F, BLOCK):
        w1 = load(W1 + origin * D * F + f + W1_offset, in_W1, PADDED)
        w2 = load(W2 + origin * D * F + f * D + W2_offset, in_W2, PADDED)
        X2 = gelu(tl.sum(K[:, None] * w1, 0) + tl.load(b1 + origin * F + f + hidden))
        Z2 += tl.sum(X2[:, None] * w2, 0)
    G2 = loss_gradient(Z2[None, :], target[None, :], scale_row[None, :], shift_row[None, :], live, D, PADDED)
    G2 = tl.load(eta + here) * tl.sum(G2, 0)
    tau_i = tl.load(tau + place)
    bias2_sum = BIAS * G2
    if BEGUN:
        bias2_sum += load(b2_sum + here * D + column, in_row, PADDED)
    bias2_i = bias2 - tau_i * bias2_sum
    Z2_bar = bias2_i
    for f in range(0, F, BLOCK):
        w1 = load(W1 + origin * D * F + f + W1_offset, in_W1, PADDED)
        w2 = load(W2 + origin * D * F + f * D + W2_offset, in_W2, PADDED)
        bias1 = tl.load(b1 + origin * F + f + hidden)
        X2, slope = gelu_and_slope(tl.sum(K[:, None] * w1, 0) + bias1)
        G1 = tl.sum(w2 * G2[None, :], 1) * slope
        w1_sum, w2_sum, bias1_sum = K[:, None] * G1[None, :], X2[:, None] * G2[None, :], BIAS * G1
        if BEGUN:
            w1_sum += load(W1_sum + here * D * F + f + W1_offset, in_W1, PADDED)
            w2_sum += load(W2_sum + here * D * F + f * D + W2_offset, in_W2, PADDED)
            bias1_sum += tl.load(b1_sum + here * F + f + hidden)
        w1_i, w2_i, bias1_i = w1 - tau_i * w1_sum, w2 - tau_i * w2_sum, bias1 - tau_i * bias1_sum
        X2_bar = gelu(tl.sum(Q[:, None] * w1_i, 0) + bias1_i)
        Z2_bar += tl.sum(X2_bar[:, None] * w2_i, 0)
        if ENDS:
            w1_sum, w2_sum, bias1_sum = w1_i, w2_i, bias1_i
        store(W1_next + here * D * F + f + W1_offset, w1_sum, in_W1, PADDED)
        store(W2_next + here * D * F + f * D + W2_offset, w2_sum, in_W2, PADDED)
        tl.store(b1_next + here * F + f + hidden, bias1_sum)
    if ENDS:
        bias2_sum = bias2_i
    store(b2_next + here * D + column, bias2_sum, in_row, PADDED)
    unit, _ = standardise(Z2_bar[None, :], live, D, PADDED)
    store(z + here * D + column, Q + scale_row * tl.sum(unit, 0) + shift_row, in_row, PADDED)
