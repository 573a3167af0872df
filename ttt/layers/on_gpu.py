"""Layers whose kernels are replaced by stand-ins for those on a GPU, to count a GPU's memory on any machine.

Shapes: B batch, T tokens, E channels of Mamba, N state size, S tokens of a segment.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt.inner.scan import InnerKernel
from ttt.kernels.dispatch import CompiledKernel, in_float32
from ttt.kernels.on_gpu import AsOnGPU, Owned
from ttt.layers import mamba
from ttt.layers.observing import patched_kernels, ttt_layers
from ttt.layers.selective_scan import chunk_length
from ttt.layers.ttt import TTT

FORWARD_STATES, BACKWARD_STATES = 4, 6
"""Tensors [B, S, E, N] that the scan in PyTorch has at once in its forward and in its backward pass."""


@contextmanager
def as_on_gpu(model: nn.Module, owned: Owned, triton: bool) -> Iterator[None]:
    """Use stand-ins for the kernels of a GPU in TTT layers and in Mamba within the context; results are undefined.

    Mamba is counted with the scan in PyTorch. The authors' kernels, where they are installed, need less.

    Args:
        model: a language model with any kernels.
        owned: see ``Owned``.
        triton: the device has the Triton kernels; if not, it uses the inner loop in PyTorch.
    """

    def kernel_on_gpu(layer: TTT, _: int) -> InnerKernel:
        kernel = layer.kernel
        if not isinstance(kernel, CompiledKernel):
            return kernel
        return AsOnGPU(kernel, owned) if triton else in_float32(kernel.fallback)

    choose_scan = mamba.choose_scan
    mamba.choose_scan = lambda *_: partial(_gated_scan, owned)
    try:
        with patched_kernels(ttt_layers(model), kernel_on_gpu):
            yield
    finally:
        mamba.choose_scan = choose_scan


def _gated_scan(owned: Owned, *inputs: Any) -> tuple[Tensor, Tensor]:
    """Stand in for ``ttt.layers.mamba.plain_scan``, which would take a loop over the tokens."""
    u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, D_E, z_BTE, dt_bias_E, h_BEN = inputs
    delta_BTE = F.softplus(dt_BTE + dt_bias_E)
    dtype = torch.promote_types(u_BTE.dtype, torch.float32)
    h_BEN = A_EN.new_zeros(u_BTE.shape[0], *A_EN.shape) if h_BEN is None else h_BEN
    with torch.autocast(u_BTE.device.type, enabled=False):
        u, delta, A, B, C, D, h = (x.to(dtype) for x in (u_BTE, delta_BTE, A_EN, B_BTN, C_BTN, D_E, h_BEN))
        y_BTE, h_BEN = _Scan.apply(owned, *(x.contiguous() for x in (u, delta, A, B, C, h)))
        y_BTE = y_BTE + D * u
    return y_BTE.to(u_BTE.dtype) * F.silu(z_BTE), h_BEN


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owned: Owned, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        u_BTE, h_BEN = tensors[0], tensors[-1]
        T, L = u_BTE.shape[1], chunk_length(h_BEN.numel())
        starts = h_BEN.new_empty(-(-T // (L * L)), *h_BEN.shape)
        ctx.owned, ctx.segment = owned, min(T + -T % L, L * L)
        with owned():
            _states = _segments(FORWARD_STATES, h_BEN, ctx.segment)
        ctx.save_for_backward(*tensors[:-1], starts)
        return torch.empty_like(u_BTE), h_BEN.clone()

    @staticmethod
    def backward(ctx: Any, _: Tensor, dh_BEN: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, starts = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in tensors]
        with ctx.owned():
            _states = _segments(BACKWARD_STATES, starts[0], ctx.segment)
        return None, *gradients, dh_BEN


def _segments(number: int, h_BEN: Tensor, tokens: int) -> list[Tensor]:
    B, E, N = h_BEN.shape
    return [h_BEN.new_empty(B, tokens, E, N) for _ in range(number)]
