"""Causal linear attention (Katharopoulos et al. 2020, arXiv 2006.16236), the first row of the TTT paper's Table 1.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width; K chunks of L tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import LinearAttentionConfig
from ttt.inner.layer_norm import EPS
from ttt.layers.flops import count_flops
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.rope import rotated
from ttt.layers.state import State, named, part
from ttt.layers.views import Output, Views, merge_heads

CHUNK = 64
"""Largest number of tokens that interact in pairs; all tokens before their chunk are summed in one matrix."""


@register_layer("linear_attention", LinearAttentionConfig, backbones=("transformer", "mamba"))
class LinearAttention(nn.Module):
    """z_t = sum_{s <= t} v_s (phi(k_s) . phi(q_t)) / sum_{s <= t} phi(k_s) . phi(q_t). [B, T, C] -> [B, T, C].

    RoPE rotates queries and keys by their absolute positions before the feature map phi; an LN follows z, as in a TTT
    layer. Without phi and normaliser it is the TTT layer of Theorem 1. Any floating dtype.

    The state, with sums in at least float32: ``S`` [B, H, D, D], the sum of phi(k_s) v_s^T; ``keys`` [B, H, D], the
    sum of phi(k_s), if there is a normaliser; ``position``, the number of tokens.
    """

    def __init__(self, config: LinearAttentionConfig, spec: LayerSpec) -> None:
        super().__init__()
        self.config, self.width, self.head_dim = config, spec.width, spec.head_dim
        self.views, self.output = Views(spec), Output(spec)
        self.post_norm = nn.LayerNorm(spec.width, eps=EPS)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens."""
        L = min(CHUNK, tokens)
        sums = 4 * (tokens + -tokens % L) * self.width * (L + self.head_dim)
        return sums + sum(count_flops(module, tokens) for module in (self.views, self.output))

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Add every token to the sums and multiply them by its query."""
        (q, k, v, *gate), views_state = self.views(x_BTC, part(state, "views"), self.output.g)
        # In at least float32: half precision would lose what one token adds to a long sum.
        with torch.autocast(x_BTC.device.type, enabled=False):
            dtype = torch.promote_types(q.dtype, torch.float32)
            z_BHTD, own_state = self._attend(q.to(dtype), k.to(dtype), v.to(dtype), state)
        y_BTC = self.output(merge_heads(z_BHTD).to(x_BTC.dtype), *gate, norm=self.post_norm)
        return y_BTC, named("views", views_state) | own_state

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, state: State | None) -> tuple[Tensor, State]:
        B, H, T, D = q.shape
        start = state or {"S": q.new_zeros(B, H, D, D), "keys": q.new_zeros(B, H, D), "position": torch.tensor(0)}
        q, k = rotated(q, k, start["position"] + torch.arange(T, device=q.device), self.config.rope_base)
        if self.config.feature_map == "elu":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        z, S = causal_sum(q, k, v, start["S"])
        after = {"S": S, "position": start["position"] + T}
        if self.config.normaliser:
            keys = start["keys"][:, :, None] + k.cumsum(dim=2)
            z = z / (q * keys).sum(dim=-1, keepdim=True)
            after["keys"] = keys[:, :, -1].clone()
        return z, after


def causal_sum(q: Tensor, k: Tensor, v: Tensor, S_BHDD: Tensor) -> tuple[Tensor, Tensor]:
    """Compute z_t = S_t^T q_t with S_t = S_{t-1} + k_t v_t^T for q, k and v [B, H, T, D], in time linear in T.

    Tokens interact in pairs within a chunk, and through sums with all earlier chunks.

    Returns:
        z [B, H, T, D] and the last S.
    """
    T = q.shape[2]
    L = min(CHUNK, T)
    # Padding the last chunk with zeros adds nothing to the sums.
    q, k, v = (F.pad(x, (0, 0, 0, -T % L)).unflatten(2, (-1, L)) for x in (q, k, v))
    S_BHKDD = torch.cat((S_BHDD[:, :, None], k.mT @ v), dim=2).cumsum(dim=2)
    z_BHKLD = (q @ k.mT).tril() @ v + q @ S_BHKDD[:, :, :-1]
    return z_BHKLD.flatten(2, 3)[:, :, :T], S_BHKDD[:, :, -1].clone()
