"""A stand-in for the Triton kernels: the same tensors and no arithmetic, to count a GPU's memory on any machine.

It allocates what ``ttt.kernels.triton`` allocates: outputs, states that are kept for the backward pass, scratch, and
copies of views in another memory order. It needs neither a GPU nor Triton. ``tests/models/test_step_memory.py``
compares it with the kernels.

Shapes: B batch, H heads, T tokens, D head width, F hidden width of TTT-MLP, b mini-batch size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttt.inner.loop import InnerInputs, InnerLoop, InnerState
from ttt.inner.models.base import Params
from ttt.kernels.adapter import for_any_length, in_memory_order, with_biases
from ttt.kernels.dispatch import CompiledKernel, hidden_widths, in_float32
from ttt.kernels.triton.sizes import MLP_ACTIVATIONS, default_group, unsupported_sizes

Owned = Callable[[], AbstractContextManager[None]]
"""Returns a context in which new tensors are buffers of a kernel."""


@dataclass(frozen=True)
class AsOnGPU:
    """The kernel that ``compiled`` would be on a GPU, with the stand-in for Triton's; its results are undefined.

    Attributes:
        compiled: ``kernel=auto`` or ``kernel=triton``.
        owned: see ``Owned``.
    """

    compiled: CompiledKernel
    owned: Owned

    def __call__(self, loop: InnerLoop, state: InnerState, inputs: InnerInputs) -> tuple[Tensor, InnerState]:
        """Compute any number of tokens as ``CompiledKernel`` does."""
        fallback, head_dim = in_float32(self.compiled.fallback), inputs.q.shape[-1]
        unsupported = unsupported_sizes(head_dim, hidden_widths(loop, inputs), loop.mini_batch_size)
        if unsupported or inputs.log_decay is not None:
            return fallback(loop, state, inputs)
        kernel = partial(inner_loop, self.owned, self.compiled.config.checkpoint_group or 0)
        return for_any_length(kernel, fallback)(loop, state, inputs)

    def view_type(self, views: Tensor, at_least_float32: torch.dtype) -> torch.dtype:
        """Return the type of the views: the kernels read half precision and float32."""
        return at_least_float32 if views.dtype == torch.float64 else views.dtype


def inner_loop(owned: Owned, group: int, loop: InnerLoop, W: Params, inputs: InnerInputs) -> tuple[Tensor, Params]:
    """Stand in for ``ttt.kernels.triton.op.inner_loop``."""
    W, bias = with_biases(W)
    B, H, _, D = inputs.q.shape
    group = group or default_group(len(W) // 2, B * H, D, inputs.q.element_size())
    views = map(in_memory_order, inputs[:3])
    z, *last = _InnerLoop.apply(owned, group, len(W), *W, *loop.norm, *views, inputs.eta, loop.tau)
    return z, tuple(last if bias else last[::2])


class _InnerLoop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owned: Owned, group: int, parameters: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        W, (_, _, q, k, v, _, tau) = tensors[:parameters], tensors[parameters:]
        _copies = _in_memory_order(q, k, v)
        groups = -(-(q.shape[2] // tau.numel()) // group)
        with owned():
            kept = [w.new_empty(groups, *w.shape) for w in W]
        ctx.save_for_backward(*kept, *tensors)
        ctx.owned, ctx.group, ctx.parameters = owned, group, parameters
        return _rows(q), *(w.new_empty(w.shape) for w in W)

    @staticmethod
    def backward(ctx: Any, dz: Tensor, *dW_last: Tensor) -> tuple[Tensor | None, ...]:
        n, saved = ctx.parameters, ctx.saved_tensors
        W, (scale, shift, q, k, v, eta, tau) = saved[n : 2 * n], saved[2 * n :]
        dW = [d.clone(memory_format=torch.contiguous_format) for d in dW_last]
        _copies = _in_memory_order(q, k, v, dz.to(q.dtype))
        with ctx.owned():
            _buffers = scratch(W, q, tau.numel(), ctx.group)
        dscale, dshift, deta, dtau = (x.new_empty(x.shape) for x in (scale, shift, eta, tau))
        return None, None, None, *dW, dscale, dshift, _rows(q), _rows(k), _rows(v), deta, dtau


def scratch(W: tuple[Tensor, ...], q: Tensor, mini_batch_size: int, group: int) -> list[Tensor]:
    """Return empty tensors as ``ttt.kernels.triton.launch.backward`` needs them besides its results.

    Args:
        W: with biases, each [B, H, I, O] or [B, H, 1, O].
        q: [B, H, T, D], with the views' dtype.
        mini_batch_size: b.
        group: mini-batches per kept W.
    """
    B, H, T, D = q.shape
    group = min(group, T // mini_batch_size)
    last = [w.new_empty(w.shape) for w in W]
    if len(W) == 2:
        types = (q.dtype, torch.float32)
        return last + [w.new_empty(group, *w.shape, dtype=dtype) for w, dtype in zip(W, types, strict=True)]
    F = W[0].shape[-1]
    gradients = [q.new_empty(group, B, H, mini_batch_size, width) for width in (F, D)]
    return last + gradients + [q.new_empty(B, H, mini_batch_size, F) for _ in range(MLP_ACTIVATIONS)]


def _in_memory_order(*views_BHTD: Tensor) -> list[Tensor]:
    """Return the views [B, T, H, D], copied if they are in another memory order."""
    return [x.transpose(1, 2).contiguous() for x in views_BHTD]


def _rows(x: Tensor) -> Tensor:
    """Return an empty [B, H, T, D] in memory order [B, T, H, D]."""
    B, H, T, D = x.shape
    return x.new_empty(B, T, H, D).transpose(1, 2)
