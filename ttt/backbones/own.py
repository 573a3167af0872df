"""A block without feed-forward part, for layers that include one, such as Mamba.

Shapes: B batch, T tokens, C model width.
"""

from torch import Tensor, nn

from ttt.backbones.modules import RMSNorm, token_steps
from ttt.backbones.registry import register_backbone
from ttt.config.schema import SizeConfig
from ttt.kernels.cpu.decode import TokenSteps
from ttt.layers.state import SequenceLayer, State, named, part


@register_backbone("own", layers_per_block=2)
class OwnBlock(nn.Module):
    """h + layer(norm(h)). [B, T, C] -> [B, T, C].

    Two of them replace one block with a feed-forward part: Mamba-130M has 24 layers, the Transformer of 125M has
    12 blocks.
    """

    def __init__(self, layer: SequenceLayer, size: SizeConfig) -> None:
        super().__init__()
        self.layer_norm = RMSNorm(size.width)
        self.layer = layer

    def forward(self, h_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return h + layer(norm(h))."""
        y_BTC, layer_state = self.layer(self.layer_norm(h_BTC), part(state, "layer"))
        return h_BTC + y_BTC, named("layer", layer_state)

    def token_steps(self, steps: TokenSteps, h_C: Tensor, state: State) -> Tensor:
        """Add one token's norm and layer, to ``h_C`` in place."""
        y_C = token_steps(self.layer, steps, steps.rms_norm(h_C, self.layer_norm), part(state, "layer"))
        steps.add_to(y_C, h_C)
        return h_C
