"""Causal depthwise convolution over time.

Shapes: B batch, T tokens, C channels, K kernel width.
"""

from collections.abc import Sequence

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
        (y_BTC,), (after,) = convolve(x_BTC, [self], [state])
        return y_BTC, after

    def token_steps(self, steps: TokenSteps, x_C: Tensor, state: State) -> Tensor:
        """Add the convolution of one token."""
        return steps.convolve(x_C, self.weight[:, 0], self.bias, state["inputs"])

    def before(self, x_BTC: Tensor, state: State | None) -> Tensor:
        """Return the K - 1 inputs before the first, [B, K - 1, C]."""
        return state["inputs"] if state else x_BTC.new_zeros(len(x_BTC), self.weight.shape[-1] - 1, x_BTC.shape[-1])

    def bias_or_zeros(self) -> Tensor:
        """Return the bias [C]."""
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias


def convolve(
    x_BTC: Tensor, filters: Sequence[CausalConv], states: Sequence[State | None]
) -> tuple[list[Tensor], list[State]]:
    """Apply filters of equally many taps to one input; the compiled kernel reads it once for all of them."""
    before = [each.before(x_BTC, state) for each, state in zip(filters, states, strict=True)]
    kernel, weights = filters[0].kernel, [each.weight[:, 0] for each in filters]
    if computes_compiled(kernel, x_BTC, *before, *weights):
        y_BTC = causal_conv(x_BTC, weights, [each.bias_or_zeros() for each in filters], before)
    else:
        y_BTC = [
            F.conv1d(torch.cat((tokens, x_BTC), dim=1).mT, each.weight, each.bias, groups=x_BTC.shape[-1]).mT
            for each, tokens in zip(filters, before, strict=True)
        ]
    T, kept = x_BTC.shape[1], before[0].shape[1]
    last = [x_BTC[:, T - kept :] if kept <= T else torch.cat((tokens, x_BTC), dim=1)[:, T:] for tokens in before]
    # A copy: a view would keep all inputs in memory and in saved files.
    return y_BTC, [{"inputs": each.clone()} for each in last]
