"""Causal softmax attention with RoPE, the sequence layer of Transformer++.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import AttentionConfig
from ttt.layers.flops import count_flops
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.rope import rope_tables, rotate
from ttt.layers.views import Output, Views, merge_heads


@register_layer("transformer", AttentionConfig, backbones=("transformer", "mamba"))
class Attention(nn.Module):
    """Multi-head attention as in Llama (the TTT paper's Transformer baseline, Section 3). [B, T, C] -> [B, T, C].

    Any floating dtype. ``spec.conv_gate`` puts the Mamba backbone's convolutions and gate around it, as around
    every other layer.
    """

    def __init__(self, config: AttentionConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.rope_base, self.width = config.rope_base, spec.width
        self.views = Views(spec)
        self.output = Output(spec)

    def flops(self, tokens: int) -> int:
        """FLOPs of the matrix products of a forward pass; of q k^T and of the product with v all T x T pairs count."""
        pairs = 4 * tokens * tokens * self.width
        return pairs + sum(count_flops(part, tokens) for part in (self.views, self.output))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Attends from every token to itself and those before it."""
        q_BHTD, k_BHTD, v_BHTD = self.views(x_BTC)
        z_BHTD = F.scaled_dot_product_attention(*self._rotated(q_BHTD, k_BHTD), v_BHTD, is_causal=True)
        return self.output(merge_heads(z_BHTD), x_BTC)

    def _rotated(self, q_BHTD: Tensor, k_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys turned by their absolute positions 0 ... T - 1, in float32 at least.

        The tables are made anew on every call: that is 1 % of forward and backward at 512 tokens, and less beyond.
        """
        *_, T, D = q_BHTD.shape
        positions = torch.arange(T, device=q_BHTD.device)
        cos, sin = rope_tables(positions, D, self.rope_base, torch.promote_types(q_BHTD.dtype, torch.float32))
        return rotate(q_BHTD, cos, sin).to(q_BHTD.dtype), rotate(k_BHTD, cos, sin).to(k_BHTD.dtype)
