"""DeltaNet: linear attention that corrects what it has stored (arXiv 2102.11174; in chunks: 2406.06484).

Shapes: B batch, H heads, T tokens, C model width, D key width and V value width of a head.
"""

import torch
from torch import Tensor, nn

from ttt.config.layers import DeltaNetConfig, GatedDeltaNetConfig
from ttt.layers import fla_kernels
from ttt.layers.delta_rule import delta_rule_by_token, delta_rule_flops, delta_rule_in_chunks, solve_flops, unit_length
from ttt.layers.flops import count_flops
from ttt.layers.heads import ConvolvedViews, HeadShape, NormedOutput
from ttt.layers.recurrence import RecurrenceKernels
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.state import State, named, part
from ttt.layers.views import linear

KERNELS = RecurrenceKernels(
    delta_rule_by_token, delta_rule_in_chunks, "fla", fla_kernels.delta_rule, fla_kernels.DTYPES
)


@register_layer("deltanet", DeltaNetConfig, backbones=("transformer",))
class DeltaNet(nn.Module):
    """S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, z_t = S_t^T q_t. [B, T, C] -> [B, T, C].

    Queries, keys and values are convolved, queries and keys have length 1, beta = sigmoid(x theta_beta), and the z of
    each head is normed, as in the layer of flash-linear-attention. The update is a step of online gradient descent:
    TTT-Linear with b = 1 and without LN, residual and bias is the same. Any floating dtype.

    The state: ``S`` [B, H, D, V], in at least float32, and those of the convolutions.

    Raises:
        UserError: heads without a whole width, or a kernel that this layer does not have.
    """

    recurrence = KERNELS

    def __init__(self, config: DeltaNetConfig | GatedDeltaNetConfig, spec: LayerSpec) -> None:
        super().__init__()
        KERNELS.check(spec.kernel)
        self.kernel, self.shape = spec.kernel, HeadShape(config, spec)
        self.largest_beta = 2.0 if config.negative_eigenvalues else 1.0
        self.views = ConvolvedViews(spec, self.shape, config.conv_kernel)
        self.beta = linear(spec.width, self.shape.heads, spec.init_std)
        self.output = NormedOutput(spec, self.shape, config.gate)

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products and the triangular systems of a forward pass over one sequence."""
        products = self.shape.heads * delta_rule_flops(tokens, self.shape.key, self.shape.value)
        others = sum(count_flops(module, tokens) for module in self.children())
        return products + self.elementwise_flops(tokens) + others

    def elementwise_flops(self, tokens: int) -> int:
        """Count the solution of the triangular systems, which torch does not."""
        return self.shape.heads * solve_flops(tokens, self.shape.key, self.shape.value)

    def log_decay(self, x_BTC: Tensor) -> Tensor | None:  # noqa: ARG002 - for Gated DeltaNet
        """Return the logarithms of the decays [B, H, T], or None: DeltaNet forgets nothing by itself."""
        return None

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Correct what S returns for each token's key, and read it with the token's query."""
        (q, k, v), views_state = self.views(x_BTC, part(state, "views"))
        q, k = unit_length(q) * self.shape.key**-0.5, unit_length(k)
        beta_BHT = self.largest_beta * torch.sigmoid(self.beta(x_BTC)).mT
        S = state["S"] if state else self.shape.empty_state(x_BTC)
        kernel = KERNELS.choose(self.kernel, v, x_BTC.shape[1])
        z_BHTV, S = kernel(q, k, v, beta_BHT, self.log_decay(x_BTC), S)
        return self.output(z_BHTV, x_BTC), named("views", views_state) | {"S": S}
