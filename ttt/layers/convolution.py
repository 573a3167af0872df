"""Causal depthwise convolution over time.

Shapes: B batch, T tokens, C channels, K kernel width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv(nn.Module):
    """One filter of K taps a channel, with bias: output t sees inputs t - K + 1 ... t. [B, T, C] -> [B, T, C].

    ``weight`` is [C, 1, K], the last tap at the present token; initial values are ``nn.Conv1d``'s.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        reference = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        self.weight, self.bias = reference.weight, reference.bias

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Filters every channel; before the first token stand zeros."""
        x_BCT = F.pad(x_BTC.transpose(1, 2), (self.weight.shape[-1] - 1, 0))
        return F.conv1d(x_BCT, self.weight, self.bias, groups=self.weight.shape[0]).transpose(1, 2)
