"""Causal softmax attention with RoPE, the sequence layer of Transformer++.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import AttentionConfig
from ttt.layers.flops import count_flops
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.rope import rotated
from ttt.layers.state import State, named, part
from ttt.layers.views import Output, Views, merge_heads


@register_layer("transformer", AttentionConfig, backbones=("transformer", "mamba"))
class Attention(nn.Module):
    """Multi-head attention as in Llama (the TTT paper's Transformer baseline, Section 3). [B, T, C] -> [B, T, C].

    Any floating dtype. ``spec.conv_gate`` adds the Mamba backbone's convolutions and gate, as for other layers. The
    state holds the rotated ``keys`` and the ``values`` of all tokens so far, each [B, H, T, D].
    """

    def __init__(self, config: AttentionConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.rope_base, self.width = config.rope_base, spec.width
        self.views = Views(spec)
        self.output = Output(spec)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens.

        All T x T pairs count, a convention that the paper's inference FLOPs imply; see ``ttt/models/FLOPS.md``.
        """
        pairs = 4 * tokens * tokens * self.width
        return pairs + sum(count_flops(module, tokens) for module in (self.views, self.output))

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend from every token to itself and the tokens before it."""
        (q_BHTD, k_BHTD, v_BHTD), views_state = self.views(x_BTC, part(state, "views"))
        past = state["keys"].shape[2] if state else 0
        positions = past + torch.arange(q_BHTD.shape[2], device=q_BHTD.device)
        q_BHTD, k_BHTD = rotated(q_BHTD, k_BHTD, positions, self.rope_base)
        if state:
            k_BHTD = torch.cat((state["keys"], k_BHTD), dim=2)
            v_BHTD = torch.cat((state["values"], v_BHTD), dim=2)
        z_BHTD = _attend(q_BHTD, k_BHTD, v_BHTD)
        # safetensors writes only contiguous tensors.
        own_state = {"keys": k_BHTD.contiguous(), "values": v_BHTD.contiguous()}
        return self.output(merge_heads(z_BHTD), x_BTC), named("views", views_state) | own_state


def _attend(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Attend from the last T of S tokens to all tokens up to themselves."""
    T, S = q_BHTD.shape[2], k_BHSD.shape[2]
    # A mask takes memory [T, S] and rules out torch's fastest kernels. Only a chunk after earlier tokens needs one.
    mask = torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril(S - T) if 1 < T < S else None
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=T == S)
