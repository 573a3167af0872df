"""Mamba's selective scan in plain PyTorch: linear time, and memory that no state sequence enters.

Shapes: B batch, T tokens, E inner width, N state size; S tokens of one segment, K chunks in a segment,
L tokens of one chunk (S = K L). The names u, delta, A, B, C, D, h are the Mamba paper's.

The states of all tokens, [B, T, E, N], are N times larger than anything else. Hence segments: each is computed from
the state that the one before it left, and computed again in the backward pass.
"""

from collections.abc import Iterable
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# An array [B, S, E, N] of a segment has about this many entries. Measured on two CPU cores (E = 96 ... 512, N = 16,
# batch 1 ... 8): a quarter of it loses up to half the speed to the dispatch of small operations; four times it
# loses as much, the arrays then having outgrown the caches and, above 32 MiB, being returned to the system by malloc
# after each use and faulted in again.
SEGMENT_ENTRIES = 2**20
SHORTEST_CHUNK, LONGEST_CHUNK = 4, 32


def selective_scan(u_BTE: Tensor, delta_BTE: Tensor, A_EN: Tensor, B_BTN: Tensor, C_BTN: Tensor, D_E: Tensor) -> Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t, from h = 0.

    Mamba (arXiv 2312.00752), Algorithm 2 and Equation 2, discretised as the authors' ``selective_scan_ref`` does.

    Args:
        u_BTE: input, of any floating dtype; the state is float32, or float64 if ``u_BTE`` is.
        delta_BTE: step sizes, positive.
        A_EN: diagonal of the state matrix, negative.
        B_BTN: input matrices.
        C_BTN: output matrices.
        D_E: the skip.

    Returns:
        y [B, T, E] in the dtype of ``u_BTE``.
    """
    h_BEN = A_EN.new_zeros((u_BTE.shape[0], *A_EN.shape), dtype=torch.promote_types(u_BTE.dtype, torch.float32))
    L = chunk_length(h_BEN.numel())
    # The backward of split joins the segments' gradients once; slices would each make a gradient of T tokens.
    segments = zip(*(x.split(L * L, dim=1) for x in (u_BTE, delta_BTE, B_BTN, C_BTN)), strict=True)
    y_BSE = []
    with torch.autocast(u_BTE.device.type, enabled=False):
        for segment in segments:
            y, h_BEN = checkpoint(
                _scan_segment, *segment, A_EN, D_E, h_BEN, L, use_reentrant=False, preserve_rng_state=False
            )
            y_BSE.append(y)
    return torch.cat(y_BSE, dim=1).to(u_BTE.dtype)


def chunk_length(state_entries: int) -> int:
    """L for a state of B E N entries. A segment has L chunks of L tokens, the fewest steps for its length."""
    return min(max(isqrt(SEGMENT_ENTRIES // state_entries), SHORTEST_CHUNK), LONGEST_CHUNK)


def _scan_segment(
    u_BSE: Tensor, delta_BSE: Tensor, B_BSN: Tensor, C_BSN: Tensor, A_EN: Tensor, D_E: Tensor, h_BEN: Tensor, L: int
) -> tuple[Tensor, Tensor]:
    """The segment's y [B, S, E] and the state [B, E, N] it leaves, from the state it finds."""
    S = u_BSE.shape[1]
    u_BSE, delta_BSE, B_BSN, C_BSN = (_whole_chunks(x.to(h_BEN), L) for x in (u_BSE, delta_BSE, B_BSN, C_BSN))
    decay_BSEN = torch.exp(delta_BSE[..., None] * A_EN.to(h_BEN))
    input_BSEN = torch.einsum("bse,bsn->bsen", delta_BSE * u_BSE, B_BSN)
    h_BSEN = LinearRecurrence.apply(decay_BSEN, input_BSEN, h_BEN, L)
    y_BSE = torch.einsum("bsen,bsn->bse", h_BSEN, C_BSN) + D_E.to(h_BEN) * u_BSE
    # A copy, because a view would keep the states of the whole segment alive until the backward pass.
    return y_BSE[:, :S], h_BSEN[:, -1].clone()


def _whole_chunks(x_BSX: Tensor, L: int) -> Tensor:
    """Appends zeros up to a multiple of L tokens: a token with delta = 0 leaves the state as it is."""
    return F.pad(x_BSX, (0, 0, 0, -x_BSX.shape[1] % L))


class LinearRecurrence(torch.autograd.Function):
    """h_t = a_t h_{t-1} + x_t, entry by entry.

    ``apply(a_BSEN, x_BSEN, h_BEN, L)`` with h_BEN the state before the first token and S a multiple of L gives
    h [B, S, E, N]. It neither divides nor takes logarithms, so a decay a_t = 0 does no harm.
    """

    @staticmethod
    def forward(ctx: Any, a_BSEN: Tensor, x_BSEN: Tensor, h_BEN: Tensor, L: int) -> Tensor:
        """Keeps decays and states."""
        h_BSEN = _recur(a_BSEN, x_BSEN, h_BEN, L)
        ctx.save_for_backward(a_BSEN, h_BSEN, h_BEN)
        ctx.L = L
        return h_BSEN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_BSEN: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """g_t = dh_t + a_{t+1} g_{t+1}, then dx_t = g_t and da_t = g_t h_{t-1}: the same recurrence from the end."""
        a_BSEN, h_BSEN, h_BEN = ctx.saved_tensors
        next_a_BSEN = torch.cat((a_BSEN[:, 1:], torch.zeros_like(a_BSEN[:, :1])), dim=1)
        previous_h_BSEN = torch.cat((h_BEN[:, None], h_BSEN[:, :-1]), dim=1)
        g_BSEN = _recur(next_a_BSEN, dh_BSEN, torch.zeros_like(h_BEN), ctx.L, backwards=True)
        return previous_h_BSEN.mul_(g_BSEN), g_BSEN, a_BSEN[:, 0] * g_BSEN[:, 0], None


def _recur(a_BSEN: Tensor, x_BSEN: Tensor, h_BEN: Tensor, L: int, backwards: bool = False) -> Tensor:
    """The recurrence in two levels, L + K + L steps instead of S = K L.

    Stepping through all chunks side by side from zero gives each chunk's end; the ends and the chunks' whole decays
    give, chunk after chunk, the states the chunks start from; from these every state follows side by side again.
    """
    a_BKLEN, x_BKLEN = a_BSEN.unflatten(1, (-1, L)), x_BSEN.unflatten(1, (-1, L))
    from_zero_BKEN = torch.zeros_like(x_BKLEN[:, :, 0])
    for t in _order(L, backwards):
        from_zero_BKEN = torch.addcmul(x_BKLEN[:, :, t], a_BKLEN[:, :, t], from_zero_BKEN)
    state_BKEN = _chunk_starts(a_BKLEN.prod(dim=2), from_zero_BKEN, h_BEN, backwards)
    h_BKLEN = torch.empty_like(x_BKLEN)
    for t in _order(L, backwards):
        state_BKEN = torch.addcmul(x_BKLEN[:, :, t], a_BKLEN[:, :, t], state_BKEN, out=h_BKLEN[:, :, t])
    return h_BKLEN.flatten(1, 2)


def _chunk_starts(decay_BKEN: Tensor, from_zero_BKEN: Tensor, h_BEN: Tensor, backwards: bool) -> Tensor:
    """The state before each chunk."""
    start_BKEN = torch.empty_like(from_zero_BKEN)
    for chunk in _order(decay_BKEN.shape[1], backwards):
        start_BKEN[:, chunk] = h_BEN
        h_BEN = torch.addcmul(from_zero_BKEN[:, chunk], decay_BKEN[:, chunk], h_BEN)
    return start_BKEN


def _order(length: int, backwards: bool) -> Iterable[int]:
    return reversed(range(length)) if backwards else range(length)
