"""The compiled causal convolution as a torch operator: a single node for autograd, torch.compile and DDP.

Shapes: B batch, T tokens, C channels, K taps.
"""

from typing import Any

import torch
from torch import Tensor

from ttt.kernels.cpu.build import load, load_unless_compiling

_INPUTS = "Tensor x, Tensor weight, Tensor bias, Tensor before"
_LIBRARY = torch.library.Library("ttt_cpu", "FRAGMENT")
_LIBRARY.define(f"causal_conv({_INPUTS}) -> Tensor")
_LIBRARY.define(f"causal_conv_backward(Tensor dy, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)")


def causal_conv(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor, before_BKC: Tensor) -> Tensor:
    """Compute y_t = bias + sum over k of weight_k x_{t-K+1+k} [B, T, C], all tensors on the CPU.

    torch's convolution wants tokens adjacent and returns them so; this one reads and writes channels adjacent, as
    linear maps do. Differentiable once, in every tensor. Equal inputs give equal bytes for any number of threads.

    Args:
        x_BTC: input, float32 or float64, the dtype of all tensors.
        weight_CK: taps, the last for the current token.
        bias_C: bias.
        before_BKC: the K - 1 tokens before the first.

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: inconsistent sizes, or different dtypes.
    """
    load_unless_compiling()
    y_BTC: Tensor = torch.ops.ttt_cpu.causal_conv(x_BTC, weight_CK, bias_C, before_BKC)
    return y_BTC


@torch.library.register_fake("ttt_cpu::causal_conv", lib=_LIBRARY)
def _(x: Tensor, *_: Tensor) -> Tensor:
    load()
    return x.new_empty(x.shape)


@torch.library.register_fake("ttt_cpu::causal_conv_backward", lib=_LIBRARY)
def _(_: Tensor, x: Tensor, weight: Tensor, bias: Tensor, before: Tensor) -> tuple[Tensor, ...]:
    d_weight = weight.new_empty(weight.shape[::-1]).mT
    return x.new_empty(x.shape), d_weight, bias.new_empty(bias.shape), before.new_empty(before.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (a name that torch passes)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    gradients: tuple[Tensor, ...] = torch.ops.ttt_cpu.causal_conv_backward(dy, *ctx.saved_tensors)
    return gradients


def _no_second(*_: Any) -> None:
    raise RuntimeError("the compiled convolution has no second derivatives: use kernel=dual for them")


torch.library.register_autograd("ttt_cpu::causal_conv", _backward, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::causal_conv_backward", _no_second, lib=_LIBRARY)
