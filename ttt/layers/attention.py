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
    state holds the rotated ``keys`` and the ``values`` of all tokens so far, each [B, H, T, D]; with a window, those of
    the last ``window`` - 1 tokens, and ``position``, the number of tokens.
    """

    def __init__(self, config: AttentionConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.rope_base, self.window, self.width = config.rope_base, config.window, spec.width
        self.views = Views(spec)
        self.output = Output(spec)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens.

        All T x T pairs count, a convention that the paper's inference FLOPs imply; see ``ttt/models/FLOPS.md``. With a
        window, the pairs in it.
        """
        pairs = 4 * tokens * min(tokens, self.window or tokens) * self.width
        return pairs + sum(count_flops(module, tokens) for module in (self.views, self.output))

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend from every token to itself and the tokens before it."""
        (q_BHTD, k_BHTD, v_BHTD, *gate), views_state = self.views(x_BTC, part(state, "views"), self.output.g)
        T = q_BHTD.shape[2]
        past = self._past(state)
        q_BHTD, k_BHTD = rotated(q_BHTD, k_BHTD, past + torch.arange(T, device=q_BHTD.device), self.rope_base)
        if state:
            k_BHTD = torch.cat((state["keys"], k_BHTD), dim=2)
            v_BHTD = torch.cat((state["values"], v_BHTD), dim=2)
        if self.window is None:
            z_BHTD, kept, position = _attend(q_BHTD, k_BHTD, v_BHTD), k_BHTD.shape[2], {}
        else:
            z_BHTD = _attend_in_window(q_BHTD, k_BHTD, v_BHTD, self.window)
            kept, position = self.window - 1, {"position": past + torch.tensor(T)}
        # safetensors writes only contiguous tensors; a view would keep the tokens before it in memory.
        last = {"keys": k_BHTD, "values": v_BHTD}
        own_state = {name: x[:, :, max(0, x.shape[2] - kept) :].contiguous() for name, x in last.items()} | position
        return self.output(merge_heads(z_BHTD), *gate), named("views", views_state) | own_state

    def _past(self, state: State | None) -> int | Tensor:
        """Return the number of tokens before this chunk."""
        if not state:
            return 0
        return state["keys"].shape[2] if self.window is None else state["position"]


def _attend(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Attend from the last T of S tokens to all tokens up to themselves."""
    T, S = q_BHTD.shape[2], k_BHSD.shape[2]
    # A mask takes memory [T, S] and rules out torch's fastest kernels. Only a chunk after earlier tokens needs one.
    mask = torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril(S - T) if 1 < T < S else None
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=T == S)


def _attend_in_window(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int) -> Tensor:
    """Attend from the last T of S tokens to ``window`` tokens up to themselves, in time linear in T.

    Queries are cut into chunks of ``window`` tokens; each attends to the keys of its chunk and of the one before.
    """
    T, S = q_BHTD.shape[2], k_BHSD.shape[2]
    if window >= S:
        return _attend(q_BHTD, k_BHSD, v_BHSD)
    # The keys of ``window`` tokens before the first query: zeros where the sequence had not begun.
    missing, rest = window - (S - T), -T % window
    q = F.pad(q_BHTD, (0, 0, 0, rest)).unflatten(2, (-1, window))
    k, v = (
        F.pad(x, (0, 0, missing, rest)).unfold(2, 2 * window, window).transpose(-1, -2).contiguous()
        for x in (k_BHSD, v_BHSD)
    )
    row, column = (torch.arange(length, device=q.device) for length in (window, 2 * window))
    distance = row[:, None] + window - column
    allowed = ((distance >= 0) & (distance < window)).expand(q.shape[2], -1, -1).clone()
    allowed[0, :, :missing] = False
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return z.flatten(2, 3)[:, :, :T]
