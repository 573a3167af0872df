"""The update rule as coefficients of the gradients in W_i.

Shapes: B batch, H heads, n tokens of a chunk.

With momentum beta and a forget gate alpha, the sum s_i in W_i = alpha_1 ... alpha_i W - tau_i s_i is linear in the sum
s_0 and the velocity m_0 before the chunk and in the chunk's gradients:

    s_i = decay_i s_0 + velocity_i m_0 + sum_{j <= i} mix_ij eta_j grad loss_j
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs


class UpdateRule(NamedTuple):
    """The coefficients of a chunk.

    Attributes:
        mix: [n, n] or [B, H, n, n], zero above the diagonal; None: ones on and below it.
        decay: [B, H, n]; None: ones.
        velocity: [n] or [B, H, n]; None: no momentum.
    """

    mix: Tensor | None = None
    decay: Tensor | None = None
    velocity: Tensor | None = None


def update_rule(momentum: float, inputs: InnerInputs) -> UpdateRule:
    """Return the coefficients of a chunk; without momentum and forget gate all are None."""
    if not momentum and inputs.log_decay is None:
        return UpdateRule()
    position = torch.arange(1, inputs.length + 1, device=inputs.q.device, dtype=inputs.q.dtype)
    repeated = (momentum ** (position[:, None] - position).clamp(min=0)).tril()
    velocity = momentum**position if momentum else None
    if inputs.log_decay is None:
        # Without forgetting, mix_ij sums the repetitions of gradient j up to token i.
        return UpdateRule(repeated.cumsum(0).tril(), None, None if velocity is None else velocity.cumsum(0))
    log_decay = inputs.log_decay.cumsum(-1)
    # Decay from token j to token i, j <= i. The upper half would overflow, so it is zeroed before the exponential.
    decay = (log_decay[..., :, None] - log_decay[..., None, :]).tril().exp().tril()
    return UpdateRule(decay @ repeated, log_decay.exp(), None if velocity is None else decay @ velocity)
