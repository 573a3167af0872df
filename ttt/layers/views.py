"""Query, key and value views of the input, and the output projection.

Shapes: B batch, H heads, T tokens, C model width, D = C / H head width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ttt.config.layers import CONV_KERNEL
from ttt.kernels import matmul
from ttt.kernels.cpu.decode import TokenSteps
from ttt.kernels.cpu.pointwise import gated_norm
from ttt.kernels.dispatch import computes_compiled
from ttt.layers.by_kernel import ByKernel
from ttt.layers.convolution import CausalConv, convolve
from ttt.layers.registry import LayerSpec
from ttt.layers.state import State, named, part


class Linear(nn.Linear, ByKernel):
    """A projection without bias, [..., in_features] -> [..., out_features], by the library of ``kernel.matmul``."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last axis by the transposed weight."""
        return matmul.linear(x, self.weight, self.kernel.matmul)


def linear(in_features: int, out_features: int, init_std: float | None) -> Linear:
    """Return a projection without bias, initially normal with standard deviation ``init_std``.

    None: torch's default, uniform with standard deviation (3 ``in_features``)^-0.5.
    """
    layer = Linear(in_features, out_features, bias=False)
    if init_std is not None:
        nn.init.normal_(layer.weight, std=init_std)
    return layer


class Views(nn.Module):
    """theta_Q, theta_K, theta_V (the paper's test, train and label views). [B, T, C] -> three of [B, H, T, D].

    With ``spec.conv_gate`` (Mamba backbone) queries and keys share one projection, and each has its own causal
    convolution of ``conv_kernel`` tokens.
    """

    def __init__(self, spec: LayerSpec, conv_kernel: int = CONV_KERNEL) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.q = linear(spec.width, spec.width, spec.init_std)
        self.k = None if spec.conv_gate else linear(spec.width, spec.width, spec.init_std)
        self.v = linear(spec.width, spec.width, spec.init_std)
        self.conv_q = CausalConv(spec.width, conv_kernel) if spec.conv_gate else None
        self.conv_k = CausalConv(spec.width, conv_kernel) if spec.conv_gate else None

    def forward(
        self, x_BTC: Tensor, state: State | None = None, gate: Linear | None = None
    ) -> tuple[tuple[Tensor, ...], State]:
        """Project, convolve with ``conv_gate``, and split the heads; the fourth result is ``gate`` of x, [B, T, C]."""
        maps = [each for each in (self.q, self.k, self.v, gate) if each is not None]
        q_BTC, *rest = matmul.linears(x_BTC, [each.weight for each in maps], self.q.kernel.matmul)
        after: State = {}
        if self.k is None:
            q_BTC, k_BTC, after = self._query_and_key(q_BTC, state)
            rest = [k_BTC, *rest]
        k_BTC, v_BTC, *gates = rest
        return (self._heads(q_BTC), self._heads(k_BTC), self._heads(v_BTC), *gates), after

    def _query_and_key(self, shared_BTC: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        assert self.conv_q is not None
        assert self.conv_k is not None
        states = part(state, "conv_q"), part(state, "conv_k")
        (q_BTC, k_BTC), after = convolve(shared_BTC, (self.conv_q, self.conv_k), states)
        return q_BTC, k_BTC, named("conv_q", after[0]) | named("conv_k", after[1])

    def token_steps(self, steps: TokenSteps, x_C: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Add the views of one token, each [H, D]."""
        q_C = steps.linear(x_C, self.q.weight)
        if self.k is not None:
            k_C = steps.linear(x_C, self.k.weight)
        else:
            assert self.conv_q is not None
            assert self.conv_k is not None
            k_C = self.conv_k.token_steps(steps, q_C, part(state, "conv_k"))
            q_C = self.conv_q.token_steps(steps, q_C, part(state, "conv_q"))
        q_HD, k_HD, v_HD = (x.view(-1, self.head_dim) for x in (q_C, k_C, steps.linear(x_C, self.v.weight)))
        return q_HD, k_HD, v_HD

    def _heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Output(nn.Module):
    """theta_O, after Mamba's gate GELU(x theta_G) with ``spec.conv_gate``.

    Takes the layer's result z [B, T, C] and x theta_G [B, T, C], which ``Views`` computes with its own maps of x.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.g = linear(spec.width, spec.width, spec.init_std) if spec.conv_gate else None
        self.o = linear(spec.width, spec.width, spec.init_std)

    def forward(self, z_BTC: Tensor, gate_BTC: Tensor | None = None, norm: nn.LayerNorm | None = None) -> Tensor:
        """Apply ``norm`` to z, gate and project. On CPUs the compiled kernel norms and gates at once."""
        if self.g is None:
            return self.o(z_BTC if norm is None else norm(z_BTC))
        assert gate_BTC is not None
        if norm is not None and computes_compiled(self.o.kernel, z_BTC, gate_BTC, norm.weight):
            return self.o(gated_norm(z_BTC, gate_BTC, norm.weight, norm.bias, norm.eps))
        return self.o(F.gelu(gate_BTC, approximate="tanh") * (z_BTC if norm is None else norm(z_BTC)))

    def token_steps(self, steps: TokenSteps, z_C: Tensor, x_C: Tensor) -> Tensor:
        """Add the gate and the projection of one token."""
        if self.g is not None:
            steps.gate(steps.linear(x_C, self.g.weight), z_C, "gelu")
        return steps.linear(z_C, self.o.weight)


def merge_heads(z_BHTD: Tensor) -> Tensor:
    """Merge the heads: [B, H, T, D] -> [B, T, C]."""
    return z_BHTD.transpose(1, 2).flatten(-2)
