"""The compiled inner loop as a torch operator: a single node for autograd, torch.compile and DDP.

Shapes: B batch, H heads, T tokens, D head width, F hidden width of TTT-MLP, b mini-batch size.
"""

from typing import Any

import torch
from torch import Tensor

from ttt.kernels.adapter import with_biases
from ttt.kernels.cpu.build import load, load_unless_compiling

Params = tuple[Tensor, ...]

DEFAULT_GROUP = 16
"""Mini-batches per kept W. All values from 4 to 32 take the same time. With 16, a head of TTT-MLP of width 64 keeps 512
bytes per token, as much as two of its views; the states and activations recomputed at a time take 4 MB, the size of
the last-level cache."""

_INPUTS = (
    "Tensor[] W, Tensor scale, Tensor shift, Tensor q, Tensor k, Tensor v, Tensor eta, Tensor tau, Tensor? rotation, "
    "int group, bool bias"
)
_LIBRARY = torch.library.Library("ttt_cpu", "DEF")
_LIBRARY.define(f"forward({_INPUTS}, bool keep) -> (Tensor, Tensor[], Tensor)")
_LIBRARY.define(
    f"backward(Tensor dz, Tensor[] dW_last, Tensor kept, {_INPUTS})"
    " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def supports(head_dim: int, hidden: tuple[int, ...], mini_batch_size: int, dtype: torch.dtype) -> bool:
    """Return whether ``inner_loop`` supports this inner model.

    Args:
        head_dim: D; a multiple of 16.
        hidden: widths of the hidden layers: none for TTT-Linear, at most one, a multiple of 16.
        mini_batch_size: b; at most 64.
        dtype: float32, or float64, which is slow.
    """
    widths = (head_dim, *hidden)
    return (
        len(hidden) <= 1
        and all(width > 0 and width % 16 == 0 for width in widths)
        and 1 <= mini_batch_size <= 64
        and dtype in (torch.float32, torch.float64)
    )


def inner_loop(
    W: Params,
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    recompute_group: int = 0,
    rotation: Tensor | None = None,
) -> tuple[Tensor, Params]:
    """Compute the inner loop over whole mini-batches of a supported size, all tensors of one dtype on the CPU.

    Differentiable once, in every tensor. For the backward pass it keeps its inputs, and W once per group of
    mini-batches. Equal inputs give equal bytes for any number of threads.

    Args:
        W: state before the first token, (W1, b1) or (W1, b1, W2, b2), each [B, H, I, O] and [B, H, 1, O]; or without
            biases (W1,) or (W1, W2).
        scale: of the inner model's LN, [H, 1, D].
        shift: of the inner model's LN, [H, 1, D].
        q: test view [B, H, T, D]; T is a multiple of b.
        k: train view [B, H, T, D].
        v: label view [B, H, T, D].
        eta: inner learning rate [B, H, T].
        tau: token scale [b].
        recompute_group: mini-batches per kept W; 0 means ``DEFAULT_GROUP``.
        rotation: RoPE of q and k, cosines and sines of every place in turn [b, D], without a gradient; None: none.

    Returns:
        z [B, H, T, D], stored as [B, T, H, D], and the state after the last token.

    Raises:
        CompilerError: the kernel cannot be compiled on this machine.
        RuntimeError: sizes that are inconsistent or not supported, or different dtypes.
    """
    load_unless_compiling()
    W, bias = with_biases(W)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*W, scale, shift, q, k, v, eta, tau))
    group = recompute_group or DEFAULT_GROUP
    z, W_last, _ = torch.ops.ttt_cpu.forward(list(W), scale, shift, q, k, v, eta, tau, rotation, group, bias, keep)
    return z, tuple(W_last if bias else W_last[::2])


@torch.library.register_fake("ttt_cpu::forward", lib=_LIBRARY)
def _(W: list[Tensor], *arguments: Any) -> tuple[Tensor, list[Tensor], Tensor]:
    load()
    _, _, q, _, _, _, tau, _, group, _, keep = arguments
    B, H, T, _ = q.shape
    groups = (T // tau.numel() + group - 1) // group
    kept = q.new_empty(B if keep else 0, H, groups, sum(w.shape[2] * w.shape[3] for w in W))
    return _empty_views(q), [w.new_empty(w.shape) for w in W], kept


@torch.library.register_fake("ttt_cpu::backward", lib=_LIBRARY)
def _(*arguments: Any) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, _, _, W, scale, shift, q, k, v, eta, tau, *_ = arguments
    dscale, dshift, deta, dtau = (x.new_empty(x.shape) for x in (scale, shift, eta, tau))
    dq, dk, dv = map(_empty_views, (q, k, v))
    return [w.new_empty(w.shape) for w in W], dscale, dshift, dq, dk, dv, deta, dtau


def _empty_views(x: Tensor) -> Tensor:
    """Return an empty [B, H, T, D], stored as [B, T, H, D]."""
    B, H, T, D = x.shape
    return x.new_empty(B, T, H, D).transpose(1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    W, *tensors, group, bias, _ = inputs
    kept = output[2]
    ctx.layers, ctx.group, ctx.bias = len(W), group, bias
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(kept, *W, *tensors)


def _backward(ctx: Any, dz: Tensor | None, dW_last: list[Tensor | None], _: None) -> tuple[Any, ...]:
    kept, *tensors = ctx.saved_tensors
    W, (scale, shift, q, *others) = tensors[: ctx.layers], tensors[ctx.layers :]
    dz = torch.zeros_like(q) if dz is None else dz
    dW = [torch.zeros(w.shape, dtype=w.dtype) if d is None else d for w, d in zip(W, dW_last, strict=True)]
    gradients = torch.ops.ttt_cpu.backward(dz, dW, kept, W, scale, shift, q, *others, ctx.group, ctx.bias)
    return *gradients, None, None, None, None


def _no_second(*_: Any) -> None:
    raise RuntimeError("the compiled inner loop has no second derivatives: use kernel=dual for them")


torch.library.register_autograd("ttt_cpu::forward", _backward, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("ttt_cpu::backward", _no_second, lib=_LIBRARY)
