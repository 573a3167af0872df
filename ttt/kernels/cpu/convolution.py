"""The compiled causal convolutions as a torch operator: a single node for autograd, torch.compile and DDP.

Shapes: F filters, B batch, T tokens, C channels, K taps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ttt.kernels.cpu.build import load, load_unless_compiling

_INPUTS = "Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] before"
_LIBRARY = torch.library.Library("ttt_cpu", "FRAGMENT")
_LIBRARY.define(f"causal_conv({_INPUTS}) -> Tensor[]")
_LIBRARY.define(f"causal_conv_backward(Tensor[] dy, {_INPUTS}) -> (Tensor, Tensor[], Tensor[], Tensor[])")


def causal_conv(
    x_BTC: Tensor, weights_CK: Sequence[Tensor], biases_C: Sequence[Tensor], before_BKC: Sequence[Tensor]
) -> list[Tensor]:
    """Compute y_t = bias + sum over k of weight_k x_{t-K+1+k} for F filters, each y [B, T, C], all tensors on the CPU.

    It reads x once for all filters, and sums their gradients of x at once. torch's convolution wants tokens adjacent
    and returns them so; this one reads and writes channels adjacent, as linear maps do. Differentiable once, in every
    tensor. Equal inputs give equal bytes for any number of threads.

    Args:
        x_BTC: input, float32 or float64, the dtype of all tensors.
        weights_CK: taps of each filter, the last for the current token.
        biases_C: bias of each filter.
        before_BKC: the K - 1 tokens before the first, for each filter.

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: inconsistent sizes, or different dtypes.
    """
    load_unless_compiling()
    y_BTC: list[Tensor] = torch.ops.ttt_cpu.causal_conv(x_BTC, list(weights_CK), list(biases_C), list(before_BKC))
    return y_BTC


@torch.library.register_fake("ttt_cpu::causal_conv", lib=_LIBRARY)
def _(x: Tensor, weights: list[Tensor], *_: list[Tensor]) -> list[Tensor]:
    load()
    return [x.new_empty(x.shape) for _ in weights]


@torch.library.register_fake("ttt_cpu::causal_conv_backward", lib=_LIBRARY)
def _(_: list[Tensor], x: Tensor, *given: list[Tensor]) -> tuple[Tensor | list[Tensor], ...]:
    return x.new_empty(x.shape), *([each.new_empty(each.shape) for each in tensors] for tensors in given)


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, *tensors = inputs
    ctx.filters = len(output)
    ctx.save_for_backward(x, *(each for one_kind in tensors for each in one_kind))


def _backward(ctx: Any, dy: list[Tensor]) -> tuple[Any, ...]:
    (x, *tensors), F = ctx.saved_tensors, ctx.filters
    gradients: tuple[Any, ...] = torch.ops.ttt_cpu.causal_conv_backward(
        dy, x, tensors[:F], tensors[F : 2 * F], tensors[2 * F :]
    )
    return gradients


def _no_second(*_: Any) -> None:
    raise RuntimeError("the compiled convolution has no second derivatives: use kernel=dual for them")


torch.library.register_autograd("ttt_cpu::causal_conv", _backward, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::causal_conv_backward", _no_second, lib=_LIBRARY)
