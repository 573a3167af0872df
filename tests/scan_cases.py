"""Random inputs of a selective scan, and its definition token by token."""

import torch
from torch import Tensor

BATCH, INNER, STATE = 2, 5, 3


def make_inputs(
    tokens: int, batch: int = BATCH, inner: int = INNER, state: int = STATE, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Return (u, delta, A, B, C, D, h) requiring gradients, of the magnitude of Mamba's initial values."""
    torch.manual_seed(0)
    u, B, C = (torch.randn(batch, tokens, width, dtype=dtype) for width in (inner, state, state))
    delta = torch.rand(batch, tokens, inner, dtype=dtype) * 0.2
    A = -torch.arange(1, state + 1, dtype=dtype).repeat(inner, 1)
    D, h = torch.randn(inner, dtype=dtype), torch.randn(batch, inner, state, dtype=dtype)
    return [x.requires_grad_() for x in (u, delta, A, B, C, D, h)]


def token_by_token(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    y = []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta * u)[:, t, :, None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(y, dim=1), h
