"""Mamba-2: a state space with one decay a head, computed with matrix products (arXiv 2405.21060).

Shapes: B batch, T tokens, C model width, E = expand C inner width, H heads of P = E / H channels, N state size, G
groups of heads.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.errors import bad_value
from ttt.config.layers import Mamba2Config
from ttt.layers import mamba_kernels
from ttt.layers.chunks import Recurrence
from ttt.layers.convolution import CausalConv
from ttt.layers.decayed_sum import decayed_sum_by_token, decayed_sum_flops, decayed_sum_in_chunks
from ttt.layers.flops import count_flops
from ttt.layers.mamba import initial_delta
from ttt.layers.recurrence import RecurrenceKernels
from ttt.layers.registry import LayerSpec, register_layer
from ttt.layers.state import State, named, part
from ttt.layers.views import linear

A_MIN, A_MAX = 1.0, 16.0


def state_space(
    decayed_sum: Recurrence,
    u_BTHP: Tensor,
    delta_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    h_BHNP: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t^T, y_t = h_t^T C_t.

    Args:
        decayed_sum: an implementation of ``ttt.layers.decayed_sum``, in which C are queries, B keys and delta u values.
        u_BTHP: the input.
        delta_BTH: step sizes, positive.
        A_H: negative.
        B_BTGN: input matrices, one for each group of heads.
        C_BTGN: output matrices.
        h_BHNP: the state before the first token.

    Returns:
        y [B, T, H, P] and the last h.
    """
    groups = B_BTGN.shape[2]
    q, k = (x.transpose(1, 2)[:, :, None] for x in (C_BTGN, B_BTGN))
    v, g = (x.transpose(1, 2) for x in (u_BTHP * delta_BTH[..., None], (A_H * delta_BTH)[..., None]))
    v, g, h = (x.unflatten(1, (groups, -1)) for x in (v, g, h_BHNP))
    y, h = decayed_sum(q, k, v, g, h)
    return y.flatten(1, 2).transpose(1, 2), h.flatten(1, 2)


KERNELS = RecurrenceKernels(
    partial(state_space, decayed_sum_by_token),
    partial(state_space, decayed_sum_in_chunks),
    "mamba_ssm",
    mamba_kernels.state_space,
    mamba_kernels.DTYPES,
)


@register_layer("mamba2", Mamba2Config, backbones=("own", "transformer"))
class Mamba2(nn.Module):
    """Mamba-2's mixer, with the parameter names and shapes of the authors' ``mamba2.py``. [B, T, C] -> [B, T, C].

    In a head h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t^T and y_t = h_t^T C_t + D u_t; then RMSNorm(y * SiLU(z)).
    Any floating dtype; decays and state stay in at least float32 under autocast. Initial values are the authors': A
    uniform in [1, 16], softplus(dt_bias) log-uniform in [0.001, 0.1], ``out_proj`` divided by the square root of
    ``spec.depth``. ``norm_eps`` is the epsilon of all norms of the model.

    The state holds ``h`` [B, H, N, P], in at least float32, and the convolution's state.

    Raises:
        UserError: heads or groups that do not divide the inner width, or a kernel that this layer does not have.
    """

    recurrence = KERNELS

    def __init__(self, config: Mamba2Config, spec: LayerSpec) -> None:
        super().__init__()
        KERNELS.check(spec.kernel)
        self.kernel, self.norm_eps = spec.kernel, config.norm_eps
        self.inner, self.N, self.groups = config.expand * spec.width, config.state_size, config.groups
        self.P = spec.head_dim if config.head_dim is None else config.head_dim
        self.heads = self._heads()
        init_std = None if config.projection_init == "uniform" else spec.init_std
        convolved = self.inner + 2 * self.groups * self.N
        self.in_proj = linear(spec.width, self.inner + convolved + self.heads, init_std)
        self.conv1d = CausalConv(convolved, config.conv_kernel)
        self.dt_bias = nn.Parameter(initial_delta(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(A_MIN, A_MAX).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(self.inner, self.groups, config.norm_eps)
        self.out_proj = linear(self.inner, spec.width, init_std)
        self.out_proj.weight.data /= math.sqrt(spec.depth)

    def _heads(self) -> int:
        if self.inner % self.P:
            raise bad_value("model.head_dim", self.P, f"must divide the inner width {self.inner}, expand x size.width")
        heads = self.inner // self.P
        if heads % self.groups:
            raise bad_value("model.groups", self.groups, f"must divide the {heads} heads, the inner width / head_dim")
        return heads

    def flops(self, tokens: int) -> int:
        """Return the FLOPs of the matrix products of a forward pass over one sequence of ``tokens`` tokens."""
        of_head = decayed_sum_flops(tokens, self.N, self.P, rows=False, shared=self.heads // self.groups)
        return self.heads * of_head + sum(count_flops(module, tokens) for module in self.children())

    def forward(self, x_BTC: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, run the state space, norm and gate."""
        sizes = (self.inner, self.inner + 2 * self.groups * self.N, self.heads)
        z_BTE, convolved, dt_BTH = self.in_proj(x_BTC).split(sizes, dim=-1)
        convolved, conv_state = self.conv1d(convolved, part(state, "conv1d"))
        u_BTE, B, C = F.silu(convolved).split((self.inner, *2 * (self.groups * self.N,)), dim=-1)
        u_BTHP = u_BTE.unflatten(-1, (self.heads, self.P))
        B_BTGN, C_BTGN = (x.unflatten(-1, (self.groups, self.N)) for x in (B, C))
        dtype = torch.promote_types(x_BTC.dtype, torch.float32)
        h_BHNP = state["h"] if state else u_BTE.new_zeros(len(u_BTE), self.heads, self.N, self.P, dtype=dtype)
        delta_BTH = F.softplus(dt_BTH.to(dtype) + self.dt_bias)
        kernel = KERNELS.choose(self.kernel, u_BTE, u_BTE.shape[1])
        y_BTHP, h_BHNP = kernel(u_BTHP, delta_BTH, -self.A_log.to(dtype).exp(), B_BTGN, C_BTGN, h_BHNP)
        y_BTE = (y_BTHP + self.D[:, None] * u_BTHP).flatten(2)
        return self.out_proj(self.norm(y_BTE, z_BTE)), named("conv1d", conv_state) | {"h": h_BHNP}


class GatedNorm(nn.Module):
    """RMSNorm of y * SiLU(z), over each group of channels. [B, T, E] -> [B, T, E]."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight, self.groups, self.eps = nn.Parameter(torch.ones(channels)), groups, eps

    def forward(self, y_BTE: Tensor, z_BTE: Tensor) -> Tensor:
        """Gate, then norm, in at least float32."""
        dtype = torch.promote_types(y_BTE.dtype, torch.float32)
        gated = (y_BTE.to(dtype) * F.silu(z_BTE.to(dtype))).unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(gated, gated.shape[-1:], eps=self.eps)
        return self.weight * normed.flatten(-2).to(y_BTE.dtype)
