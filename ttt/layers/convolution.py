"""Causal depthwise convolution over time.

Shapes: B batch, T tokens, C channels, K kernel width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.kernels.cpu.convolution import causal_conv
from ttt.kernels.cpu.decode import TokenSteps
from ttt.kernels.dispatch import computes_compiled
from ttt.layers.by_kernel import ByKernel
from ttt.layers.state import State

STD_OF_TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal distribution restricted to -2 ... 2."""


class CausalConv(nn.Module, ByKernel):
    """One filter of K taps per channel: output t depends on inputs t - K + 1 ... t. [B, T, C] -> [B, T, C].

    ``weight`` is [C, 1, K], its last tap is for the current token; initial values are those of ``nn.Conv1d``: uniform
    in +-K^-0.5, the bias too. Without ``bias``, ``bias`` is None.
    On CPUs the compiled kernel computes it where ``kernel.name`` allows it.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__()
        reference = nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=bias)
        self.weight, self.bias = reference.weight, reference.bias

    def init_lecun(self) -> None:
        """Draw the weights from LeCun's truncated normal, standard deviation K^-0.5, and set the bias to 0 (flax)."""
        # Flax divides by the standard deviation of a normal distribution that is cut off at 2.
        std = self.weight.shape[-1] ** -0.5 / STD_OF_TRUNCATED
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filter every channel, with zeros before the first token. The state has the last ``inputs`` [B, K - 1, C]."""
        B, T, C = x_BTC.shape
        before = state["inputs"] if state else x_BTC.new_zeros(B, self.weight.shape[-1] - 1, C)
        kept = self.weight.shape[-1] - 1
        last = x_BTC[:, T - kept :] if kept <= T else torch.cat((before, x_BTC), dim=1)[:, T:]
        # A copy: a view would keep all inputs in memory and in saved files.
        return self._filtered(x_BTC, before), {"inputs": last.clone()}

    def token_steps(self, steps: TokenSteps, x_C: Tensor, state: State) -> Tensor:
        """Add the convolution of one token."""
        return steps.convolve(x_C, self.weight[:, 0], self.bias, state["inputs"])

    def _filtered(self, x_BTC: Tensor, before: Tensor) -> Tensor:
        if computes_compiled(self.kernel, x_BTC, before, self.weight):
            bias = x_BTC.new_zeros(x_BTC.shape[-1]) if self.bias is None else self.bias
            return causal_conv(x_BTC, self.weight[:, 0], bias, before)
        inputs = torch.cat((before, x_BTC), dim=1).transpose(1, 2)
        return F.conv1d(inputs, self.weight, self.bias, groups=x_BTC.shape[-1]).transpose(1, 2)
