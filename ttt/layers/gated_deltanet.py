"""Gated DeltaNet: the delta rule with a decay (arXiv 2412.06464).

Shapes: B batch, H heads, T tokens, C model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import GatedDeltaNetConfig
from ttt.layers.deltanet import DeltaNet
from ttt.layers.mamba import initial_delta
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.views import linear

A_MAX = 16.0


@register_layer("gated_deltanet", GatedDeltaNetConfig, backbones=("transformer",))
class GatedDeltaNet(DeltaNet):
    """S_t = a_t S_{t-1} + beta_t k_t (v_t - a_t S_{t-1}^T k_t)^T, z_t = S_t^T q_t. [B, T, C] -> [B, T, C].

    DeltaNet with Mamba-2's decay a = exp(-A softplus(x theta_a + delta_bias)), one a head, and an output gate. Initial
    values are those of flash-linear-attention, except that projections have ``spec.init_std``: A uniform in [0, 16],
    softplus(delta_bias) log-uniform in [0.001, 0.1]. State and errors are DeltaNet's.
    """

    def __init__(self, config: GatedDeltaNetConfig, spec: LayerSpec) -> None:
        super().__init__(config, spec)
        heads = self.shape.heads
        self.decay = linear(spec.width, heads, spec.init_std)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(0, A_MAX).log())
        self.delta_bias = nn.Parameter(initial_delta(heads))

    def log_decay(self, x_BTC: Tensor) -> Tensor:
        """Return -A softplus(x theta_a + delta_bias), [B, H, T], in at least float32."""
        a_BTH = self.decay(x_BTC)
        dtype = torch.promote_types(a_BTH.dtype, torch.float32)
        return (-self.A_log.to(dtype).exp() * F.softplus(a_BTH.to(dtype) + self.delta_bias)).mT
