"""Parts that every backbone shares.

Shapes: B batch, T tokens, C model width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ttt.layers.views import linear

NORM_EPS = 1e-6


def rms_norm(width: int) -> nn.RMSNorm:
    """RMSNorm over the model width, without a shift."""
    return nn.RMSNorm(width, eps=NORM_EPS)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), the feed-forward part of a block. [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int, hidden: int, init_std: float) -> None:
        super().__init__()
        self.gate = linear(width, hidden, init_std)
        self.up = linear(width, hidden, init_std)
        self.down = linear(hidden, width, init_std)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Gates and projects back."""
        return self.down(F.silu(self.gate(x_BTC)) * self.up(x_BTC))
