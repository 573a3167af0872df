"""Causal depthwise convolution over time.

Shapes: B batch, T tokens, C channels, K kernel width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.layers.state import State


class CausalConv(nn.Module):
    """One filter of K taps a channel, with bias: output t sees inputs t - K + 1 ... t. [B, T, C] -> [B, T, C].

    ``weight`` is [C, 1, K], the last tap at the present token; initial values are ``nn.Conv1d``'s.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        reference = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        self.weight, self.bias = reference.weight, reference.bias

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filters every channel; before the first token stand zeros. The state: the last ``inputs`` [B, K - 1, C]."""
        B, T, C = x_BTC.shape
        before = state["inputs"] if state else x_BTC.new_zeros(B, self.weight.shape[-1] - 1, C)
        inputs = torch.cat((before, x_BTC), dim=1)
        y_BCT = F.conv1d(inputs.transpose(1, 2), self.weight, self.bias, groups=C)
        # A copy, because a view would keep all inputs in memory, and in a file.
        return y_BCT.transpose(1, 2), {"inputs": inputs[:, T:].clone()}
