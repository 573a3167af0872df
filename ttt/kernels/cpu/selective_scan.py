"""Mamba's compiled selective scan with its gate as a torch operator: one node for autograd, torch.compile and DDP.

Shapes: B batch, T tokens, E channels, N state size.
"""

from typing import Any

import torch
from torch import Tensor

from ttt.kernels.cpu.build import load, load_unless_compiling

SEGMENT, KEPT_E, KEPT_N = 64, 32, 4
"""As in ``channel_scan.h``: tokens per kept state, and the multiples to which E and N of kept states are rounded."""

_INPUTS = "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor bias"
_LIBRARY = torch.library.Library("ttt_cpu", "FRAGMENT")
_LIBRARY.define(f"selective_scan({_INPUTS}, Tensor h, bool keep) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"selective_scan_backward(Tensor dout, Tensor dh_last, Tensor kept, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def gated_scan(
    u_BTE: Tensor,
    dt_BTE: Tensor,
    A_EN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_E: Tensor,
    z_BTE: Tensor,
    dt_bias_E: Tensor,
    h_BEN: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and (C_t h_t + D u_t) silu(z_t), all tensors on the CPU.

    delta is softplus(dt + dt_bias). Differentiable once, in every tensor. For the backward pass it keeps its inputs,
    and the state before every 64th token: E N / 64 numbers per token. Equal inputs give equal bytes for any number of
    threads.

    Args:
        u_BTE: input, float32 or float64, the dtype of all tensors.
        dt_BTE: step sizes before their bias and softplus.
        A_EN: diagonal of the state matrix, negative.
        B_BTN: input matrices.
        C_BTN: output matrices.
        D_E: the skip.
        z_BTE: the gate before SiLU.
        dt_bias_E: bias of the step sizes.
        h_BEN: the state before the first token.

    Returns:
        The output [B, T, E] and the last state [B, E, N].

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: inconsistent sizes, or different dtypes.
    """
    load_unless_compiling()
    inputs = u_BTE, dt_BTE, A_EN, B_BTN, C_BTN, D_E, z_BTE, dt_bias_E, h_BEN
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    y_BTE, h_BEN, _ = torch.ops.ttt_cpu.selective_scan(*inputs, keep)
    return y_BTE, h_BEN


@torch.library.register_fake("ttt_cpu::selective_scan", lib=_LIBRARY)
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    load()
    u, _, A, *_, h, keep = arguments
    (B, T, E), N = u.shape, A.shape[1]
    segments, kept_N, kept_E = -(-T // SEGMENT), -(-N // KEPT_N) * KEPT_N, -(-E // KEPT_E) * KEPT_E
    return u.new_empty(B, T, E), u.new_empty(h.shape), u.new_empty(B if keep else 0, segments, kept_N, kept_E)


@torch.library.register_fake("ttt_cpu::selective_scan_backward", lib=_LIBRARY)
def _(*arguments: Any) -> tuple[Tensor, ...]:
    _, dh_last, _, u, dt, *others, z, bias = arguments
    du, ddt, dz = map(_empty_tokens, (u, dt, z))
    return du, ddt, *(x.new_empty(x.shape) for x in others), dz, *(x.new_empty(x.shape) for x in (bias, dh_last))


def _empty_tokens(x_BTE: Tensor) -> Tensor:
    """Return an empty [B, T, E] in the layout of the operator's: tokens adjacent if they are in ``x``."""
    B, T, E = x_BTE.shape
    tokens_adjacent = x_BTE.stride(2) != 1 and x_BTE.stride(1) == 1
    return x_BTE.new_empty(B, E, T).mT if tokens_adjacent else x_BTE.new_empty(B, T, E)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, h, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], *tensors)
    ctx.shape_of_h = h.shape


def _backward(ctx: Any, dout: Tensor | None, dh_last: Tensor | None, _: None) -> tuple[Any, ...]:
    kept, u, *others = ctx.saved_tensors
    dout = torch.zeros_like(u) if dout is None else dout
    dh_last = u.new_zeros(ctx.shape_of_h) if dh_last is None else dh_last
    return *torch.ops.ttt_cpu.selective_scan_backward(dout, dh_last, kept, u, *others), None


def _no_second(*_: Any) -> None:
    raise RuntimeError("the compiled selective scan has no second derivatives: use kernel=dual for them")


torch.library.register_autograd("ttt_cpu::selective_scan", _backward, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::selective_scan_backward", _no_second, lib=_LIBRARY)
