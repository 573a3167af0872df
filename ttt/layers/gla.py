"""Gated linear attention: sums of keys times values, with a learned decay for each key channel (arXiv 2312.06635).

Shapes: B batch, H heads, T tokens, C model width, D key width and V value width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import GLAConfig
from ttt.layers import fla_kernels
from ttt.layers.decayed_sum import (
    decayed_sum_by_token,
    decayed_sum_flops,
    decayed_sum_in_chunks,
    pairs_of_rows_flops,
)
from ttt.layers.flops import count_flops
from ttt.layers.heads import ConvolvedViews, HeadShape, NormedOutput, split_heads
from ttt.layers.recurrence import RecurrenceKernels
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.state import State, named, part
from ttt.layers.views import linear

KERNELS = RecurrenceKernels(
    decayed_sum_by_token, decayed_sum_in_chunks, "fla", fla_kernels.decayed_sum, fla_kernels.DTYPES
)


@register_layer("gla", GLAConfig, backbones=("transformer",))
class GatedLinearAttention(nn.Module):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T, z_t = S_t^T q_t. [B, T, C] -> [B, T, C].

    The decays are a = sigmoid(x theta_1 theta_2 + bias)^(1 / ``decay_root``), with a projection of rank ``decay_rank``;
    each head's z is normed and gated, as in flash-linear-attention's layer. Any floating dtype.

    The state: ``S`` [B, H, D, V], in at least float32, and those of the convolutions, if there are any.

    Raises:
        UserError: heads without a whole width, or a kernel that this layer does not have.
    """

    recurrence = KERNELS

    def __init__(self, config: GLAConfig, spec: LayerSpec) -> None:
        super().__init__()
        KERNELS.check(spec.kernel)
        self.kernel, self.shape, self.decay_root = spec.kernel, HeadShape(config, spec), config.decay_root
        self.views = ConvolvedViews(spec, self.shape, config.conv_kernel)
        channels = self.shape.heads * self.shape.key
        self.decay_down = linear(spec.width, config.decay_rank, spec.init_std)
        self.decay_up = linear(config.decay_rank, channels, spec.init_std)
        self.decay_bias = nn.Parameter(torch.zeros(channels))
        self.output = NormedOutput(spec, self.shape, config.gate)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products and the decayed pairs of a forward pass over one sequence."""
        products = self.shape.heads * decayed_sum_flops(tokens, self.shape.key, self.shape.value, rows=True)
        others = sum(count_flops(module, tokens) for module in self.children())
        return products + self.elementwise_flops(tokens) + others

    def elementwise_flops(self, tokens: int) -> int:
        """Count the products of pairs of queries and keys, which are elementwise because of the decays."""
        return self.shape.heads * pairs_of_rows_flops(tokens, self.shape.key)

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Add every token to the decayed sums and multiply them by its query."""
        (q, k, v), views_state = self.views(x_BTC, part(state, "views"))
        S = state["S"] if state else self.shape.empty_state(x_BTC)
        kernel = KERNELS.choose(self.kernel, v, x_BTC.shape[1])
        z_BHTV, S = kernel(q * self.shape.key**-0.5, k, v, self._log_decay(x_BTC), S)
        return self.output(z_BHTV, x_BTC), named("views", views_state) | {"S": S}

    def _log_decay(self, x_BTC: Tensor) -> Tensor:
        """Return log sigmoid(...) / ``decay_root``, [B, H, T, D], in at least float32."""
        decay_BTE = self.decay_up(self.decay_down(x_BTC))
        dtype = torch.promote_types(decay_BTE.dtype, torch.float32)
        log_decay_BTE = F.logsigmoid(decay_BTE.to(dtype) + self.decay_bias) / self.decay_root
        return split_heads(log_decay_BTE, self.shape.heads)
