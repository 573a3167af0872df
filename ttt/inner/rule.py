"""The update rule as coefficients: how much of every gradient W_i holds.

Shapes: B batch, H heads, n tokens of a piece.

With momentum beta and a forget gate alpha, the sum s_i that W_i = alpha_1 ... alpha_i W - tau_i s_i takes is linear in
what stood before the piece and in the piece's gradients:

    s_i = keep_i s_0 + velocity_i m_0 + sum_{j <= i} mix_ij eta_j grad loss_j
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.loop import Tokens


class Rule(NamedTuple):
    """The coefficients.

    Attributes:
        mix: [n, n] or [B, H, n, n], zero above the diagonal; None: ones on and below it.
        keep: [B, H, n]; None: ones.
        velocity: [n] or [B, H, n]; None: no momentum.
    """

    mix: Tensor | None = None
    keep: Tensor | None = None
    velocity: Tensor | None = None


def rule_of(momentum: float, tokens: Tokens) -> Rule:
    """The coefficients for a piece; with neither momentum nor forget gate all is left out that would be 1."""
    if not momentum and tokens.log_keep is None:
        return Rule()
    place = torch.arange(1, tokens.length + 1, device=tokens.q.device, dtype=tokens.q.dtype)
    repeated = (momentum ** (place[:, None] - place).clamp(min=0)).tril()
    velocity = momentum**place if momentum else None
    if tokens.log_keep is None:
        # Nothing is forgotten: mix_ij sums the repetitions of gradient j up to token i.
        return Rule(repeated.cumsum(0).tril(), None, None if velocity is None else velocity.cumsum(0))
    log_kept = tokens.log_keep.cumsum(-1)
    # From j to i, j <= i. The other half would overflow, so it is cut off before the exponential.
    kept = (log_kept[..., :, None] - log_kept[..., None, :]).tril().exp().tril()
    return Rule(kept @ repeated, log_kept.exp(), None if velocity is None else kept @ velocity)
