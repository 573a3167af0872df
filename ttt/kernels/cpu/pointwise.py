"""The compiled norms and gates as torch operators, each a single node for autograd, torch.compile and DDP.

They compute in the backward pass again what is cheap, so that only their inputs are kept. Differentiable once. Equal
inputs give equal bytes for any number of threads. All tensors are on the CPU, of one dtype, float32 or float64.

Shapes: C channels, the last axis.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ttt.kernels.cpu.build import load, load_unless_compiling

_LIBRARY = torch.library.Library("ttt_cpu", "FRAGMENT")
_LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
_LIBRARY.define("sum_rms_norm(Tensor h, Tensor y, Tensor weight, float eps) -> (Tensor, Tensor)")
_LIBRARY.define(
    "rms_norm_backward(Tensor dy, Tensor? dx_before, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)"
)
_LIBRARY.define("gated_norm(Tensor x, Tensor gate, Tensor weight, Tensor bias, float eps) -> Tensor")
_LIBRARY.define(
    "gated_norm_backward(Tensor dy, Tensor x, Tensor gate, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define("gated_product(Tensor gate, Tensor up) -> Tensor")
_LIBRARY.define("gated_product_backward(Tensor upstream, Tensor gate, Tensor up) -> (Tensor, Tensor, Tensor)")


def rms_norm(x: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight, [..., C].

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: inconsistent sizes, or different dtypes.
    """
    load_unless_compiling()
    y: Tensor = torch.ops.ttt_cpu.rms_norm(x, weight_C, eps)
    return y


def sum_rms_norm(h: Tensor, y: Tensor, weight_C: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return h + y and ``rms_norm`` of it, [..., C]; the errors are those of ``rms_norm``."""
    load_unless_compiling()
    total, normed = torch.ops.ttt_cpu.sum_rms_norm(h, y, weight_C, eps)
    return total, normed


def gated_norm(x: Tensor, gate: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """Return GELU(gate) * LN(x), [..., C], with GELU's tanh form; the errors are those of ``rms_norm``."""
    load_unless_compiling()
    y: Tensor = torch.ops.ttt_cpu.gated_norm(x, gate, weight_C, bias_C, eps)
    return y


def gated_product(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, [..., C], without gradients; the errors are those of ``rms_norm``."""
    load_unless_compiling()
    product: Tensor = torch.ops.ttt_cpu.gated_product(gate, up)
    return product


def gated_product_backward(upstream: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of gate and up, and silu(gate) * up, which the backward pass of a product needs too."""
    d_gate, d_up, product = torch.ops.ttt_cpu.gated_product_backward(upstream, gate, up)
    return d_gate, d_up, product


def _like(*numbers: int) -> Callable[..., Any]:
    """Return a fake operator whose results are like those of its arguments with these numbers."""

    def fake(*arguments: Any) -> Any:
        load()
        results = tuple(arguments[number].new_empty(arguments[number].shape) for number in numbers)
        return results if len(results) > 1 else results[0]

    return fake


for _name, _numbers in {
    "rms_norm": (0,),
    "sum_rms_norm": (0, 0),
    "rms_norm_backward": (2, 3),
    "gated_norm": (0,),
    "gated_norm_backward": (1, 2, 3, 4),
    "gated_product": (0,),
    "gated_product_backward": (1, 2, 1),
}.items():
    torch.library.register_fake(f"ttt_cpu::{_name}", _like(*_numbers), lib=_LIBRARY)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 (a name that torch passes)
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, weight, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], weight)


def _rms_norm_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    return *torch.ops.ttt_cpu.rms_norm_backward(dy, None, x, weight, ctx.eps), None


def _sum_rms_norm_backward(ctx: Any, d_total: Tensor | None, d_normed: Tensor | None) -> tuple[Any, ...]:
    if d_normed is None:
        return d_total, d_total, None, None
    dx, d_weight = torch.ops.ttt_cpu.rms_norm_backward(d_normed, d_total, *ctx.saved_tensors, ctx.eps)
    return dx, dx, d_weight, None


def _gated_norm_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return *torch.ops.ttt_cpu.gated_norm_backward(dy, *ctx.saved_tensors, ctx.eps), None


def _no_second(*_: Any) -> None:
    raise RuntimeError("the compiled norms have no second derivatives: use kernel=dual for them")


torch.library.register_autograd("ttt_cpu::rms_norm", _rms_norm_backward, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::sum_rms_norm", _sum_rms_norm_backward, setup_context=_save_sum, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::gated_norm", _gated_norm_backward, setup_context=_save, lib=_LIBRARY)
for _name in ("rms_norm_backward", "gated_norm_backward"):
    torch.library.register_autograd(f"ttt_cpu::{_name}", _no_second, lib=_LIBRARY)
