"""Sums of keys times values that decay: the recurrence of gated linear attention and of Mamba-2.

    S_t = exp(g_t) * S_{t-1} + k_t v_t^T,  z_t = S_t^T q_t

Shapes: T tokens, D key width, V value width, K chunks of L tokens; ``...`` leading axes, such as batch and heads. The
logarithm g of the decay is at most 0. It is [..., T, D], one for each row of S (gated linear attention, arXiv
2312.06635), or [..., T, 1], one for all of S (Mamba-2, arXiv 2405.21060). Leading axes of 1 in q and k are broadcast,
for heads that share them.
"""

import torch
from torch import Tensor

from ttt.layers.chunks import differences, in_chunks, in_float32, joined, starts_of_chunks

CHUNK = 64
"""Tokens of a chunk with one decay for all of S."""

CHUNK_OF_ROWS = 16
"""The same with a decay for each row: the decays of a chunk's pairs are [L, L, D] then."""


@in_float32
def decayed_sum_by_token(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the recurrence as it is written, token by token: the reference, and the step of decoding.

    Args:
        q: queries [..., T, D].
        k: keys [..., T, D].
        v: values [..., T, V].
        g: logarithm of the decay [..., T, D or 1].
        S: the state before the first token [..., D, V].

    Returns:
        z [..., T, V] and the last S.
    """
    outputs = []
    for t in range(v.shape[-2]):
        S = g[..., t, :, None].exp() * S + k[..., t, :, None] * v[..., t, None, :]
        outputs.append((q[..., t, None, :] @ S).squeeze(-2))
    return torch.stack(outputs, dim=-2), S


@in_float32
def decayed_sum_in_chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same with matrix products, in time linear in T (the papers' chunkwise form, SSD).

    Tokens interact in pairs within a chunk, and through S with all earlier chunks. Every exponent is at most 0.
    Arguments and results are those of ``decayed_sum_by_token``.
    """
    T, rows = v.shape[-2], g.shape[-1] > 1
    L = chunk_length(T, rows)
    q, k, v, g = (in_chunks(x, L) for x in (q, k, v, g))
    z, S = _a_decay_for_each_row(q, k, v, g, S) if rows else _one_decay(q, k, v, g, S)
    return joined(z, T), S


def _a_decay_for_each_row(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    sums = g.cumsum(dim=-2)
    total = sums[..., -1:, :]
    added = (k * (total - sums).exp()).mT @ v
    starts, S = starts_of_chunks(total.exp().mT, added, S)
    return _pairs_of_rows(q, k, sums) @ v + (q * sums.exp()) @ starts, S


def _one_decay(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Put the decay on values and outputs, so that heads that share keys and queries share their products as well.

    With the heads of a key side by side as columns, one matrix product serves all of them, and nothing is repeated.
    """
    sums = g.cumsum(dim=-2)
    total = sums[..., -1:, :]
    pairs = (q @ k.mT) * differences(sums.squeeze(-1)).exp()
    keys, V = k.shape[-4], v.shape[-1]
    added = k.mT @ _side_by_side(v * (total - sums).exp(), keys)
    decay = _side_by_side(total.exp().expand(*total.shape[:-1], V), keys)
    starts, last = starts_of_chunks(decay, added, _side_by_side(S.unsqueeze(-3), keys).squeeze(-3))
    # In this order the sum has the layout of v: no copy brings the heads of a token together again.
    z = _apart(q @ starts, V) * sums.exp() + pairs @ v
    # Files of states want contiguous tensors.
    return z, _apart(last.unsqueeze(-3), V).squeeze(-3).contiguous()


def _side_by_side(x: Tensor, keys: int) -> Tensor:
    """Join the columns of the h heads of each key: [..., keys h, K, L, V] -> [..., keys, K, L, h V]."""
    return x.unflatten(-4, (keys, -1)).movedim(-4, -2).flatten(-2)


def _apart(x: Tensor, V: int) -> Tensor:
    """Undo ``_side_by_side``: [..., keys, K, L, h V] -> [..., keys h, K, L, V]."""
    return x.unflatten(-1, (-1, V)).movedim(-2, -4).flatten(-5, -4)


def _pairs_of_rows(q: Tensor, k: Tensor, sums: Tensor) -> Tensor:
    """Return sum_d q_id k_jd exp(sums_id - sums_jd) for j <= i, else 0: [..., L, L]."""
    decay_DLL = differences(sums.mT).exp()
    return (q.mT[..., :, None] * k.mT[..., None, :] * decay_DLL).sum(dim=-3)


def chunk_length(tokens: int, rows: bool) -> int:
    """Return L; ``rows``: whether each row of S has its own decay."""
    return min(CHUNK_OF_ROWS if rows else CHUNK, tokens)


def decayed_sum_flops(tokens: int, D: int, V: int, rows: bool, shared: int = 1) -> int:
    """Count the matrix products of ``decayed_sum_in_chunks`` for one head; ``shared`` heads have the same q and k.

    With ``rows``, the products of pairs are elementwise and not counted here: see ``pairs_of_rows_flops``.
    """
    if tokens == 1:
        return 2 * D * V
    L = chunk_length(tokens, rows)
    whole = tokens + -tokens % L
    return 2 * whole * (L * V + 2 * D * V) + (0 if rows else 2 * whole * L * D // shared)


def pairs_of_rows_flops(tokens: int, D: int) -> int:
    """Count the products of pairs for one head with a decay for each row: two products and a sum, of T L D triples."""
    L = chunk_length(tokens, rows=True)
    return 3 * (tokens + -tokens % L) * L * D if tokens > 1 else 0
