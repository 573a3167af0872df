"""TTT-Linear, forward: one program computes all mini-batches of one head of one sequence, with W in registers.

Shapes: B batch, H heads, T tokens, D head width, b mini-batch size; tiles as in ``functions``.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import dot, load, loss_gradient, standardise, store


@triton.jit(do_not_specialize=["first", "count", "tokens", "heads", "shared", "group"])
def linear_forward(
    q,
    k,
    v,
    eta,
    tau,
    scale,
    shift,
    W1,
    b1,
    z,
    W1_last,
    b1_last,
    W1_kept,
    b1_kept,
    first,
    count,
    tokens,
    heads,
    shared,
    group,
    D: tl.constexpr,
    P: tl.constexpr,
    b: tl.constexpr,
    R: tl.constexpr,
    BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KEEPS: tl.constexpr,
):
    """Compute z = q + LN(Z_bar) for mini-batches ``first`` to ``first + count - 1``, and W after them.

    Args:
        q: test view, [B, T, H, D] in memory, as k, v and z.
        k: train view.
        v: label view.
        eta: inner learning rate, [B, H, T] float32.
        tau: token scale, [b] float32.
        scale: of LN, [H, D] float32.
        shift: of LN, [H, D] float32.
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
        OUTPUTS: whether z is computed.
        KEEPS: whether W is kept.
    """
    program = tl.program_id(0)
    sequence, head = program // heads, program % heads
    row, column = tl.arange(0, R), tl.arange(0, P)
    PADDED: tl.constexpr = P != D or R != b
    live = (row < b)[:, None] & (column < D)[None, :]
    in_W = (column < D)[:, None] & (column < D)[None, :]
    W_offset, tile = column[:, None] * D + column[None, :], row[:, None] * heads * D + column[None, :]
    origin = program * (1 - shared) + head * shared
    w = load(W1 + origin.to(tl.int64) * D * D + W_offset, in_W, PADDED)
    bias = load(b1 + origin * D + column, column < D, PADDED)
    scale_row = load(scale + head * D + column, column < D, PADDED)[None, :]
    shift_row = load(shift + head * D + column, column < D, PADDED)[None, :]
    tau_row = load(tau + row, row < b, PADDED)
    for index in range(count):
        token = sequence.to(tl.int64) * tokens + (first + index) * b
        place = (token * heads + head) * D + tile
        if KEEPS:
            if index % group == 0:
                kept = (index // group).to(tl.int64) * tl.num_programs(0) + program
                store(W1_kept + kept * D * D + W_offset, w, in_W, PADDED)
                store(b1_kept + kept * D + column, bias, column < D, PADDED)
        K = load(k + place, live, PADDED)
        dtype = K.dtype
        w_half = w.to(dtype)
        target = load(v + place, live, PADDED).to(tl.float32) - K.to(tl.float32)
        G = loss_gradient(dot(K, w_half) + bias[None, :], target, scale_row, shift_row, live, D, PADDED)
        eta_row = load(eta + program.to(tl.int64) * tokens + (first + index) * b + row, row < b, PADDED)
        # W is updated before the outputs are computed: the last product of the loop decides how warps are laid out for
        # all of them. If the update of W came last, each warp would hold all rows of a mini-batch's tiles.
        step = -tl.load(tau + b - 1) * eta_row[:, None] * G
        w = dot(tl.trans(K), step.to(dtype), w)
        bias_before = bias
        bias += BIAS * tl.sum(step, 0)
        if OUTPUTS:
            Q = load(q + place, live, PADDED)
            M = tl.where(row[:, None] >= row[None, :], tau_row[:, None] * eta_row[None, :], 0.0)
            A = (-M * (dot(Q, tl.trans(K)) + BIAS)).to(dtype)
            Z_bar = dot(A, G.to(dtype), dot(Q, w_half) + bias_before[None, :])
            unit, _ = standardise(Z_bar, live, D, PADDED)
            store(z + place, Q.to(tl.float32) + scale_row * unit + shift_row, live, PADDED)
    last = program.to(tl.int64) * D * D + W_offset
    store(W1_last + last, w, in_W, PADDED)
    store(b1_last + program * D + column, bias, column < D, PADDED)
