"""Mamba's selective scan in plain PyTorch, in time linear in T and with few stored states.

Shapes: B batch, T tokens, E inner width, N state size; S tokens of a segment, K chunks of a segment, L tokens of a
chunk. The names u, delta, A, B, C, D, h are the Mamba paper's (arXiv 2312.00752); the prefix d means the gradient.

The states of all tokens, [B, T, E, N], are N times larger than any other tensor. Therefore the sequence is split into
segments, as in the compiled scan (``ttt/kernels/cpu/selective_scan.h``): each starts from the last state of the one
before, keeps only that state, and is recomputed in the backward pass.
"""

from collections.abc import Iterable
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# A tensor [B, S, E, N] of a segment has at most this many entries, and rarely less than a quarter. Measured on two
# CPU cores (E = 96 ... 512, N = 16, batch 1 ... 16): a quarter of it loses up to a third of the speed to the dispatch
# of small operations, four times as many lose about half, because the tensors no longer fit in the caches.
SEGMENT_ENTRIES = 2**20
SHORTEST_CHUNK, LONGEST_CHUNK = 4, 32


def selective_scan(
    u_BTE: Tensor,
    delta_BTE: Tensor,
    A_EN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_E: Tensor,
    h_BEN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t.

    Mamba's Algorithm 2 with Equation 2, discretised as in the authors' ``selective_scan_ref``. It needs no division
    and no logarithm, so decays exp(delta_t A) may underflow to zero.

    Args:
        u_BTE: input of any floating dtype; the state is float32, or float64 for a float64 input.
        delta_BTE: step sizes, positive.
        A_EN: diagonal of the state matrix, negative.
        B_BTN: input matrices.
        C_BTN: output matrices.
        D_E: the skip.
        h_BEN: the state before the first token; None means zero.

    Returns:
        y [B, T, E] in the dtype of ``u_BTE``, and the last state [B, E, N].
    """
    dtype = torch.promote_types(u_BTE.dtype, torch.float32)
    h_BEN = A_EN.new_zeros(u_BTE.shape[0], *A_EN.shape) if h_BEN is None else h_BEN
    with torch.autocast(u_BTE.device.type, enabled=False):
        y_BTE, h_BEN = _plain_scan(*(x.to(dtype) for x in (u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, D_E, h_BEN)))
    return y_BTE.to(u_BTE.dtype), h_BEN


def _plain_scan(
    u_BTE: Tensor, delta_BTE: Tensor, A_EN: Tensor, B_BTN: Tensor, C_BTN: Tensor, D_E: Tensor, h_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    scan = _one_token if u_BTE.shape[1] == 1 else _many_tokens
    y_BTE, h_BEN = scan(u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, h_BEN)
    return y_BTE + D_E * u_BTE, h_BEN


def _one_token(
    u_BTE: Tensor, delta_BTE: Tensor, A_EN: Tensor, B_BTN: Tensor, C_BTN: Tensor, h_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recurrence directly for T = 1, in a fifth of the time of a segment of one token."""
    h_BEN = torch.exp(delta_BTE.mT * A_EN) * h_BEN + (delta_BTE * u_BTE).mT @ B_BTN
    return C_BTN @ h_BEN.mT, h_BEN


def _many_tokens(
    u_BTE: Tensor, delta_BTE: Tensor, A_EN: Tensor, B_BTN: Tensor, C_BTN: Tensor, h_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    T, L = u_BTE.shape[1], chunk_length(h_BEN.numel())
    # After a convolution, tokens are adjacent in memory instead of channels, which would take four times as long.
    u, delta, B, C = (_whole_chunks(x.contiguous(), L) for x in (u_BTE, delta_BTE, B_BTN, C_BTN))
    y_BTE, h_BEN = SelectiveScan.apply(u, delta, A_EN, B, C, h_BEN, L)
    return y_BTE[:, :T], h_BEN


def chunk_length(state_entries: int) -> int:
    """Return L for a state of B E N entries; a segment has L chunks of L tokens, the fewest steps for its length.

    L is a power of two, so that the usual T need no padding.
    """
    tokens = max(SEGMENT_ENTRIES // state_entries, 1)
    return min(max(2 ** int(log2(tokens) / 2), SHORTEST_CHUNK), LONGEST_CHUNK)


def _whole_chunks(x_BTX: Tensor, L: int) -> Tensor:
    """Pad with zeros to a multiple of L tokens: a token with delta = 0 does not change the state."""
    missing = -x_BTX.shape[1] % L
    return F.pad(x_BTX, (0, 0, 0, missing)) if missing else x_BTX


class SelectiveScan(torch.autograd.Function):
    """The scan without its skip: ``apply(u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, h_BEN, L)`` -> y [B, T, E] and h.

    All tensors have one dtype; T is a multiple of L.
    """

    @staticmethod
    def forward(
        ctx: Any, u_BTE: Tensor, delta_BTE: Tensor, A_EN: Tensor, B_BTN: Tensor, C_BTN: Tensor, h_BEN: Tensor, L: int
    ) -> tuple[Tensor, Tensor]:
        """Compute the segments in order; keep the inputs and the state before each segment."""
        segments = [slice(t, t + L * L) for t in range(0, u_BTE.shape[1], L * L)]
        y_BTE = torch.empty_like(u_BTE)
        starts = h_BEN.new_empty(len(segments), *h_BEN.shape)
        for i, s in enumerate(segments):
            starts[i] = h_BEN
            _, h_BSEN = _decays_and_states(u_BTE[:, s], delta_BTE[:, s], A_EN, B_BTN[:, s], h_BEN, L)
            y_BTE[:, s] = torch.einsum("bsen,bsn->bse", h_BSEN, C_BTN[:, s])
            h_BEN = h_BSEN[:, -1]
        ctx.save_for_backward(u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, starts)
        ctx.segments, ctx.L = segments, L
        return y_BTE, h_BEN.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BTE: Tensor, dh_BEN: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the segments from last to first, passing on the gradient dh of the state before each."""
        u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, starts = ctx.saved_tensors
        inputs = u_BTE, delta_BTE, B_BTN, C_BTN
        gradients = [torch.empty_like(x) for x in inputs]
        dA_EN = torch.zeros_like(A_EN)
        for i, s in reversed(list(enumerate(ctx.segments))):
            tokens = (x[:, s] for x in (*inputs, dy_BTE))
            *of_tokens, of_A, dh_BEN = _segment_gradients(A_EN, starts[i], dh_BEN, ctx.L, *tokens)
            for gradient, part in zip(gradients, of_tokens, strict=True):
                gradient[:, s] = part
            dA_EN += of_A
        du_BTE, ddelta_BTE, dB_BTN, dC_BTN = gradients
        return du_BTE, ddelta_BTE, dA_EN, dB_BTN, dC_BTN, dh_BEN, None


def _decays_and_states(
    u_BSE: Tensor, delta_BSE: Tensor, A_EN: Tensor, B_BSN: Tensor, h_BEN: Tensor, L: int
) -> tuple[Tensor, Tensor]:
    """Return the segment's a_t = exp(delta_t A) and h_t, both [B, S, E, N], from the state before it."""
    a_BSEN = torch.exp(delta_BSE[..., None] * A_EN)
    x_BSEN = torch.einsum("bse,bsn->bsen", delta_BSE * u_BSE, B_BSN)
    return a_BSEN, recurrence(a_BSEN, x_BSEN, h_BEN, L)


def _segment_gradients(
    A_EN: Tensor,
    h_BEN: Tensor,
    dh_BEN: Tensor,
    L: int,
    u_BSE: Tensor,
    delta_BSE: Tensor,
    B_BSN: Tensor,
    C_BSN: Tensor,
    dy_BSE: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (du, ddelta, dB, dC, dA, dh) of a segment that starts from h and whose last state has the gradient dh.

    The total gradient g_t of h_t is g_t = C_t dy_t + a_{t+1} g_{t+1}: the same recurrence from the end.
    """
    a_BSEN, h_BSEN = _decays_and_states(u_BSE, delta_BSE, A_EN, B_BSN, h_BEN, L)
    next_a_BSEN = torch.cat((a_BSEN[:, 1:], torch.ones_like(a_BSEN[:, :1])), dim=1)
    g_BSEN = recurrence(next_a_BSEN, torch.einsum("bse,bsn->bsen", dy_BSE, C_BSN), dh_BEN, L, backwards=True)
    previous_h_BSEN = torch.cat((h_BEN[:, None], h_BSEN[:, :-1]), dim=1)
    d_exponent_BSEN = previous_h_BSEN.mul_(a_BSEN).mul_(g_BSEN)
    gB_BSE = torch.einsum("bsen,bsn->bse", g_BSEN, B_BSN)
    return (
        delta_BSE * gB_BSE,
        u_BSE * gB_BSE + (d_exponent_BSEN * A_EN).sum(dim=-1),
        torch.einsum("bsen,bse->bsn", g_BSEN, delta_BSE * u_BSE),
        torch.einsum("bsen,bse->bsn", h_BSEN, dy_BSE),
        torch.einsum("bsen,bse->en", d_exponent_BSEN, delta_BSE),
        a_BSEN[:, 0] * g_BSEN[:, 0],
    )


def recurrence(a_BSEN: Tensor, x_BSEN: Tensor, h_BEN: Tensor, L: int, backwards: bool = False) -> Tensor:
    """Compute h_t = a_t h_{t-1} + x_t elementwise, in L + K + L steps instead of S = K L.

    First, all chunks run in parallel from zero to their last states. These and the chunks' total decays then give the
    state before each chunk, one chunk after another. From those, all chunks run in parallel again.

    Args:
        a_BSEN: decays.
        x_BSEN: inputs.
        h_BEN: the state before the first token.
        L: tokens of a chunk, a divisor of S.
        backwards: run from the last token to the first, h_t = a_t h_{t+1} + x_t.
    """
    a_BKLEN, x_BKLEN = a_BSEN.unflatten(1, (-1, L)), x_BSEN.unflatten(1, (-1, L))
    end_BKEN = torch.zeros_like(x_BKLEN[:, :, 0])
    for t in _order(L, backwards):
        end_BKEN = torch.addcmul(x_BKLEN[:, :, t], a_BKLEN[:, :, t], end_BKEN)
    state_BKEN = _chunk_starts(a_BKLEN.prod(dim=2), end_BKEN, h_BEN, backwards)
    h_BKLEN = torch.empty_like(x_BKLEN)
    for t in _order(L, backwards):
        state_BKEN = torch.addcmul(x_BKLEN[:, :, t], a_BKLEN[:, :, t], state_BKEN, out=h_BKLEN[:, :, t])
    return h_BKLEN.flatten(1, 2)


def _chunk_starts(decay_BKEN: Tensor, end_BKEN: Tensor, h_BEN: Tensor, backwards: bool) -> Tensor:
    """Return the state before each chunk, from the chunks' decays, their last states from zero, and the first state."""
    start_BKEN = torch.empty_like(end_BKEN)
    for chunk in _order(end_BKEN.shape[1], backwards):
        start_BKEN[:, chunk] = h_BEN
        h_BEN = torch.addcmul(end_BKEN[:, chunk], decay_BKEN[:, chunk], h_BEN)
    return start_BKEN


def _order(length: int, backwards: bool) -> Iterable[int]:
    return reversed(range(length)) if backwards else range(length)
