"""The paper's Mamba backbone: a convolution before the Transformer block, and convolutions and a gate in its layer.

Shapes: B batch, T tokens, C model width.
"""

from torch import Tensor

from ttt.backbones.modules import RMSNorm
from ttt.backbones.registry import register_backbone
from ttt.backbones.transformer import TransformerBlock
from ttt.config.layers import CONV_KERNEL
from ttt.config.schema import SizeConfig
from ttt.kernels.cpu.decode import TokenSteps
from ttt.layers.convolution import CausalConv
from ttt.layers.state import SequenceLayer, State, named, part


@register_backbone("mamba", conv_gate=True)
class MambaBackboneBlock(TransformerBlock):
    """h <- h + conv(norm(h)), then the Transformer block (Section 2.7). [B, T, C] -> [B, T, C]."""

    def __init__(self, layer: SequenceLayer, size: SizeConfig) -> None:
        super().__init__(layer, size)
        self.conv_norm = RMSNorm(size.width)
        self.conv = CausalConv(size.width, getattr(layer, "conv_kernel", CONV_KERNEL))

    def forward(self, h_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, then continue as the Transformer block."""
        y_BTC, conv_state = self.conv(self.conv_norm(h_BTC), part(state, "conv"))
        h_BTC, x_BTC = self.layer_norm.of_sum(h_BTC, y_BTC)
        h_BTC, block_state = self.after_norm(h_BTC, x_BTC, state)
        return h_BTC, named("conv", conv_state) | block_state

    def token_steps(self, steps: TokenSteps, h_C: Tensor, state: State) -> Tensor:
        """Add one token's convolution, to ``h_C`` in place, then those of the Transformer block."""
        steps.add_to(self.conv.token_steps(steps, steps.rms_norm(h_C, self.conv_norm), part(state, "conv")), h_C)
        return super().token_steps(steps, h_C, state)
