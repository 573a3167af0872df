"""Views and output of the recurrent layers whose keys and values have widths of their own.

Shapes: B batch, H heads, T tokens, C model width, D key width and V value width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.layers import GatedConfig
from ttt.layers.convolution import CausalConv
from ttt.layers.registry import LayerSpec
from ttt.layers.state import State, named, part
from ttt.layers.views import linear, merge_heads

NORM_EPS = 1e-6
"""Epsilon of the heads' norm, as in the models of flash-linear-attention."""


class HeadShape:
    """Numbers of heads and their widths, from a layer's configuration.

    Attributes:
        heads: H.
        key: D.
        value: V.

    Raises:
        UserError: the keys or values have no whole number of channels in each head.
    """

    def __init__(self, config: GatedConfig, spec: LayerSpec) -> None:
        self.heads = spec.heads if config.heads is None else config.heads
        self.key = self._width("expand_k", config.expand_k, spec.width)
        self.value = self._width("expand_v", config.expand_v, spec.width)

    def empty_state(self, x_BTC: Tensor) -> Tensor:
        """Return zeros [B, H, D, V], in at least float32, for the tokens of ``x_BTC``."""
        dtype = torch.promote_types(x_BTC.dtype, torch.float32)
        return x_BTC.new_zeros(x_BTC.shape[0], self.heads, self.key, self.value, dtype=dtype)

    def _width(self, name: str, expand: float, width: int) -> int:
        of_head = expand * width / self.heads
        if of_head != int(of_head) or of_head < 1:
            reason = f"leaves {of_head:g} channels for each of {self.heads} heads at width {width}, not a whole number"
            raise bad_value(f"model.{name}", expand, reason)
        return int(of_head)


class ConvolvedViews(nn.Module):
    """Queries, keys and values: SiLU(conv(x theta)), or x theta if ``conv_kernel`` is None.

    [B, T, C] -> q and k [B, H, T, D], v [B, H, T, V]. The convolutions are causal and have no bias.
    """

    def __init__(self, spec: LayerSpec, shape: HeadShape, conv_kernel: int | None) -> None:
        super().__init__()
        self.shape = shape
        widths = {name: shape.heads * width for name, width in (("q", shape.key), ("k", shape.key), ("v", shape.value))}
        self.projections = nn.ModuleDict({name: linear(spec.width, to, spec.init_std) for name, to in widths.items()})
        self.convolutions = nn.ModuleDict()
        if conv_kernel is not None:
            self.convolutions.update({name: CausalConv(to, conv_kernel, False) for name, to in widths.items()})

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[tuple[Tensor, Tensor, Tensor], State]:
        """Project, convolve, and split the heads."""
        views: list[Tensor] = []
        after: State = {}
        for name, projection in self.projections.items():
            view = projection(x_BTC)
            if self.convolutions:
                view, conv_state = self.convolutions[name](view, part(state, name))
                view, after = F.silu(view), after | named(name, conv_state)
            views.append(split_heads(view, self.shape.heads))
        q, k, v = views
        return (q, k, v), after


class NormedOutput(nn.Module):
    """theta_O of the heads' RMSNorm, times SiLU(x theta_G) with ``gate``.

    Takes the heads' results z [B, H, T, V] and the layer's input x [B, T, C].
    """

    def __init__(self, spec: LayerSpec, shape: HeadShape, gate: bool) -> None:
        super().__init__()
        inner = shape.heads * shape.value
        self.norm = nn.RMSNorm(shape.value, eps=NORM_EPS)
        self.g = linear(spec.width, inner, spec.init_std) if gate else None
        self.o = linear(inner, spec.width, spec.init_std)

    def forward(self, z_BHTV: Tensor, x_BTC: Tensor) -> Tensor:
        """Norm, gate and project."""
        z_BTE = merge_heads(self.norm(z_BHTV.to(x_BTC.dtype)))
        return self.o(z_BTE if self.g is None else z_BTE * F.silu(self.g(x_BTC)))


def split_heads(x_BTE: Tensor, heads: int) -> Tensor:
    """Split the heads: [B, T, H D] -> [B, H, T, D]."""
    return x_BTE.unflatten(-1, (heads, -1)).transpose(1, 2)
