"""The delta rule, with or without a decay: the recurrence of DeltaNet and Gated DeltaNet.

    S_t = a_t S_{t-1} + k_t u_t^T,  u_t = beta_t (v_t - a_t S_{t-1}^T k_t),  z_t = S_t^T q_t

with the decay a_t = exp(g_t), or 1: the state forgets, and then takes a step of online gradient descent, of rate
beta_t, on |S^T k_t - v_t|^2 / 2. Without the decay it is TTT-Linear with b = 1 and without LN, residual and bias.

Shapes: B batch, H heads, T tokens, D key width, V value width, K chunks of L tokens.
"""

import torch
from torch import Tensor

from ttt.layers.chunks import differences, in_chunks, in_float32, joined

CHUNK = 64
"""Tokens of a chunk."""

EPS = 1e-6
"""Added to the squared lengths of queries and keys, as in flash-linear-attention."""


def unit_length(x: Tensor) -> Tensor:
    """Return x / |x| over the last axis, computed in at least float32."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    return (exact * (exact.square().sum(dim=-1, keepdim=True) + EPS).rsqrt()).to(x.dtype)


@in_float32
def delta_rule_by_token(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the recurrence as it is written, token by token: the reference, and the step of decoding.

    Args:
        q: queries [B, H, T, D].
        k: keys [B, H, T, D]; at most of length 1, or 2 / beta, for a state that does not grow.
        v: values [B, H, T, V].
        beta: rates [B, H, T].
        g: logarithms of the decays [B, H, T], at most 0; None: no decay.
        S: the state before the first token [B, H, D, V].

    Returns:
        z [B, H, T, V] and the last S.
    """
    outputs = []
    for t in range(v.shape[2]):
        S = S if g is None else g[:, :, t, None, None].exp() * S
        k_D1 = k[:, :, t, :, None]
        u_1V = beta[:, :, t, None, None] * (v[:, :, t, None] - k_D1.mT @ S)
        S = S + k_D1 * u_1V
        outputs.append(q[:, :, t, None] @ S)
    return torch.cat(outputs, dim=2), S


@in_float32
def delta_rule_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the same with matrix products, in time linear in T: the WY form (arXiv 2406.06484; decay: 2412.06464).

    With c_i the sum of g within the chunk up to token i, S before the chunk and u_j of the tokens before i,

        u_i = beta_i (v_i - exp(c_i) S^T k_i - sum_{j < i} exp(c_i - c_j) (k_i . k_j) u_j),

    a triangular system for all u of a chunk. Its solution is linear in S: u = U - W S, and U and W of all chunks are
    solved at once. What is left, chunk after chunk, is S <- M S + N. Every exponent is at most 0. Arguments and results
    are those of ``delta_rule_by_token``.
    """
    T = v.shape[2]
    L = min(CHUNK, T)
    log_decay = torch.zeros_like(beta) if g is None else g
    q, k, v, beta, log_decay = (in_chunks(x, L) for x in (q, k, v, beta[..., None], log_decay[..., None]))
    sums = log_decay.cumsum(dim=-2)
    decay_LL = differences(sums.squeeze(-1)).exp()
    system = (beta * (k @ k.mT) * decay_LL).tril(-1)
    right = torch.cat((v, k * sums.exp()), dim=-1) * beta
    # The system has ones on its diagonal, which are implied.
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    U, W = solved.split((v.shape[-1], k.shape[-1]), dim=-1)
    total = sums[..., -1:, :]
    k_to_end = k * (total - sums).exp()
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    starts, S = _starts_of_chunks(total.exp() * identity - k_to_end.mT @ W, k_to_end.mT @ U, S)
    u = U - W @ starts
    z = ((q @ k.mT) * decay_LL) @ u + (q * sums.exp()) @ starts
    return joined(z, T), S


def _starts_of_chunks(M: Tensor, N: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Compute S <- M_k S + N_k over the chunks k; return S before each chunk [B, H, K, D, V] and after the last."""
    shape, starts = S.shape, []
    S = S.flatten(0, 1)
    for M_k, N_k in zip(M.flatten(0, 1).unbind(1), N.flatten(0, 1).unbind(1), strict=True):
        starts.append(S)
        S = torch.baddbmm(N_k, M_k, S)
    return torch.stack(starts, dim=1).unflatten(0, shape[:2]), S.view(shape)


def delta_rule_flops(tokens: int, D: int, V: int) -> int:
    """Count the matrix products of ``delta_rule_in_chunks`` for one head, without the triangular system."""
    if tokens == 1:
        return 4 * D * V
    L = min(CHUNK, tokens)
    chunks = -(-tokens // L)
    pairs, within, state = 4 * L * L * D, 2 * L * L * V, 2 * L * D * D + 6 * L * D * V + 2 * D * D * V
    return chunks * (pairs + within + state)


def solve_flops(tokens: int, D: int, V: int) -> int:
    """Count the solution of the triangular system of every chunk for one head; torch does not count it."""
    L = min(CHUNK, tokens)
    return -(-tokens // L) * L * L * (D + V) if tokens > 1 else 0
