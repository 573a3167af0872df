"""The Transformer backbone: sequence layer and SwiGLU, each with a norm before it and a residual connection.

Shapes: B batch, T tokens, C model width.
"""

from torch import Tensor, nn

from ttt.backbones.modules import RMSNorm, SwiGLU, token_steps
from ttt.backbones.registry import register_backbone
from ttt.config.schema import SizeConfig
from ttt.kernels.cpu.decode import TokenSteps
from ttt.layers.state import SequenceLayer, State, named, part


@register_backbone("transformer")
class TransformerBlock(nn.Module):
    """The Llama block with ``layer`` instead of attention. [B, T, C] -> [B, T, C]."""

    def __init__(self, layer: SequenceLayer, size: SizeConfig) -> None:
        super().__init__()
        self.layer_norm = RMSNorm(size.width)
        self.layer = layer
        self.mlp_norm = RMSNorm(size.width)
        self.mlp = SwiGLU(size.width, size.mlp_hidden, size.init_std)

    def forward(self, h_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Compute h <- h + layer(norm(h)), then h <- h + mlp(norm(h))."""
        return self.after_norm(h_BTC, self.layer_norm(h_BTC), state)

    def after_norm(self, h_BTC: Tensor, x_BTC: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Compute the same, given x = norm(h)."""
        y_BTC, layer_state = self.layer(x_BTC, part(state, "layer"))
        h_BTC, x_BTC = self.mlp_norm.of_sum(h_BTC, y_BTC)
        return h_BTC + self.mlp(x_BTC), named("layer", layer_state)

    def token_steps(self, steps: TokenSteps, h_C: Tensor, state: State) -> Tensor:
        """Add both branches of one token, to ``h_C`` in place."""
        y_C = token_steps(self.layer, steps, steps.rms_norm(h_C, self.layer_norm), part(state, "layer"))
        steps.add_to(y_C, h_C)
        steps.add_to(self.mlp.token_steps(steps, steps.rms_norm(h_C, self.mlp_norm)), h_C)
        return h_C
