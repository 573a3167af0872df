"""TTT-Linear, one token: z, and the state after it.

The state is that of ``ttt.inner.loop.InnerState``: W at the start of the mini-batch and the sum of eta_j grad loss_j
since then. So any other kernel can continue the sequence.

Shapes: B batch, H heads, D head width, b mini-batch size; P is D padded to a power of two.
"""

import triton
import triton.language as tl

from ttt.kernels.triton.functions import load, loss_gradient, standardise, store


@triton.jit(do_not_specialize=["place", "heads", "shared"])
def linear_decode(
    q, k, v, eta, tau, scale, shift, W1, b1, W1_sum, b1_sum, z, W1_next, b1_next,
    place, heads, shared,
    D: tl.constexpr, P: tl.constexpr, BIAS: tl.constexpr, BEGUN: tl.constexpr, ENDS: tl.constexpr
):  # fmt: skip
    """Compute W_i = W - tau_i sum_{j <= i} eta_j grad loss_j(W) and z = f(q; W_i) for the token ``place`` = i - 1.

    Args:
        q: test view, [B, H, D], as k, v and z.
        k: train view.
        v: label view.
        eta: inner learning rate, [B, H] float32.
        tau: token scale, [b] float32.
        scale: of LN, [H, D] float32.
        shift: of LN, [H, D] float32.
        W1: W1 at the start of the mini-batch, [B, H, D, D] float32, or [H, D, D] if ``shared``.
        b1: b1 at the start of the mini-batch, [B, H, D] float32, or [H, D] if ``shared``.
        W1_sum: sum over the earlier tokens of the mini-batch, [B, H, D, D] float32, read if BEGUN.
        b1_sum: likewise for the bias, [B, H, D] float32.
        z: output, written.
        W1_next: [B, H, D, D] float32, written: the sum including this token; W1 of the next mini-batch if ENDS.
        b1_next: likewise for the bias, [B, H, D] float32.
        place: number of earlier tokens in the mini-batch.
        heads: H.
        shared: 1 if all sequences start from the same W, else 0.
        D: head width.
        P: D padded.
        BIAS: 1, or 0 for an inner model without biases.
        BEGUN: whether the mini-batch has earlier tokens.
        ENDS: whether this is the last token of the mini-batch.
    """
    program = tl.program_id(0)
    head = program % heads
    column = tl.arange(0, P)
    PADDED: tl.constexpr = P != D
    in_row, in_W = column < D, (column < D)[:, None] & (column < D)[None, :]
    live = in_row[None, :]
    origin = (program * (1 - shared) + head * shared).to(tl.int64)
    here = program.to(tl.int64)
    W_offset = column[:, None] * D + column[None, :]
    W = load(W1 + origin * D * D + W_offset, in_W, PADDED)
    bias = load(b1 + origin * D + column, in_row, PADDED)
    K = load(k + here * D + column, in_row, PADDED).to(tl.float32)
    Q = load(q + here * D + column, in_row, PADDED).to(tl.float32)
    target = load(v + here * D + column, in_row, PADDED).to(tl.float32) - K
    scale_row = load(scale + head * D + column, in_row, PADDED)
    shift_row = load(shift + head * D + column, in_row, PADDED)
    Z = tl.sum(K[:, None] * W, 0) + bias
    G = loss_gradient(Z[None, :], target[None, :], scale_row[None, :], shift_row[None, :], live, D, PADDED)
    G = tl.load(eta + here) * tl.sum(G, 0)
    W_sum, bias_sum = K[:, None] * G[None, :], BIAS * G
    if BEGUN:
        W_sum += load(W1_sum + here * D * D + W_offset, in_W, PADDED)
        bias_sum += load(b1_sum + here * D + column, in_row, PADDED)
    tau_i = tl.load(tau + place)
    W_i, bias_i = W - tau_i * W_sum, bias - tau_i * bias_sum
    unit, _ = standardise((tl.sum(Q[:, None] * W_i, 0) + bias_i)[None, :], live, D, PADDED)
    store(z + here * D + column, Q + scale_row * tl.sum(unit, 0) + shift_row, in_row, PADDED)
    if ENDS:
        W_sum, bias_sum = W_i, bias_i
    store(W1_next + here * D * D + W_offset, W_sum, in_W, PADDED)
    store(b1_next + here * D + column, bias_sum, in_row, PADDED)
