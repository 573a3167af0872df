"""The Triton kernels as operators of torch: one node for autograd, torch.compile, DDP and FSDP.

Shapes: B batch, H heads, T tokens, D head width, F hidden width of TTT-MLP, b mini-batch size.
"""

from itertools import pairwise
from typing import Any

import numpy
import torch
import triton
from torch import Tensor
from triton.runtime import driver

from ttt.kernels.adapter import in_memory_order, with_biases
from ttt.kernels.triton import launch
from ttt.kernels.triton.configurations import INTERPRETED, TYPES, Layer
from ttt.kernels.triton.sizes import default_group, unsupported_sizes

Params = tuple[Tensor, ...]

_INPUTS = (
    "Tensor[] W, Tensor scale, Tensor shift, Tensor q, Tensor k, Tensor v, Tensor eta, Tensor tau, Tensor? rotation, "
    "int group, bool bias"
)
_LIBRARY = torch.library.Library("ttt_triton", "DEF")
_LIBRARY.define(f"forward({_INPUTS}, bool keep) -> (Tensor, Tensor[], Tensor[])")
_LIBRARY.define(
    f"backward(Tensor dz, Tensor[] dW_last, Tensor[] kept, {_INPUTS})"
    " -> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def unsupported(
    head_dim: int,
    hidden: tuple[int, ...],
    mini_batch_size: int,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> str | None:
    """Return the reason why the kernels cannot compute this inner model, or None if they can.

    Args:
        head_dim: D; at most 128.
        hidden: widths of the hidden layers, none for TTT-Linear; at most one, a multiple of 16.
        mini_batch_size: b; at most 64.
        dtype: of the views: float32, float16 or bfloat16.
        device: the device that would run them; None does not check its shared memory, which decoding needs little of.
    """
    if INTERPRETED and (problem := interpreter_problem(triton.__version__, numpy.__version__)):
        return problem
    if reason := unsupported_sizes(head_dim, hidden, mini_batch_size):
        return reason
    if dtype == torch.bfloat16 and INTERPRETED:
        return "Triton's interpreter computes bfloat16 wrongly; use float32 or float16"
    if dtype not in TYPES:
        return f"it supports float32, float16 and bfloat16, not {dtype}"
    needed, room = Layer(dtype, head_dim, mini_batch_size, sum(hidden)).shared_memory, _shared_memory(device)
    if room is not None and needed > room:
        return (
            f"head width {head_dim}, b = {mini_batch_size} and {dtype} need {needed // 1024} KB of shared memory, but "
            f"{device} has {room // 1024}; use half precision or a smaller mini-batch"
        )
    return None


def interpreter_problem(triton_version: str, numpy_version: str) -> str | None:
    """Return why Triton's interpreter cannot run with this NumPy, or None.

    It converts arrays of one element with ``int``, which NumPy 2.4 refuses; Triton 3.7 no longer does.
    """
    if _release(triton_version) >= (3, 7) or _release(numpy_version) < (2, 4):
        return None
    return (
        f"TRITON_INTERPRET=1 with triton {triton_version} needs numpy below 2.4, not {numpy_version}; "
        "install numpy<2.4 or triton>=3.7"
    )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _shared_memory(device: torch.device | None) -> int | None:
    """Return the bytes of shared memory that a program can have on an NVIDIA GPU, or None on other devices."""
    if device is None or device.type != "cuda" or torch.version.hip is not None:
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(driver.active.utils.get_device_properties(index)["max_shared_mem"])


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
    """Compute the inner loop over whole mini-batches, for the sizes that ``unsupported`` accepts.

    It is differentiable once, in every tensor. For the backward pass it keeps its inputs and one W per group of
    mini-batches. The state and all sums are float32; the factors of matrix products have the views' type. Views that
    are not in memory order [B, T, H, D], the order of a projection's output, are copied once.

    Args:
        W: state before the first token, (W1, b1) or (W1, b1, W2, b2), each [B, H, I, O] and [B, H, 1, O], float32; or
            without biases (W1,) or (W1, W2).
        scale: of the inner model's LN, [H, 1, D], float32.
        shift: of the inner model's LN, [H, 1, D], float32.
        q: test view [B, H, T, D], float32, float16 or bfloat16; T is a multiple of b.
        k: train view, of the same shape and type.
        v: label view, of the same shape and type.
        eta: inner learning rate [B, H, T], float32.
        tau: token scale [b], float32.
        recompute_group: mini-batches per kept W; 0 uses ``default_group``.
        rotation: cosines and sines in turn of RoPE's angles for every place in a mini-batch, [b, D], float32, by which
            q and k are rotated; None: they are not.

    Returns:
        z [B, H, T, D], in memory order [B, T, H, D] and the views' type, and the state after the last token.

    Raises:
        RuntimeError: sizes that do not match or are not supported, or different types or devices.
    """
    W, bias = with_biases(W)
    q, k, v = map(in_memory_order, (q, k, v))
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (*W, scale, shift, q, k, v, eta, tau))
    group = recompute_group or default_group(len(W) // 2, q.shape[0] * q.shape[1], q.shape[3], q.element_size())
    inputs = scale, shift, q, k, v, eta, tau, rotation
    z, W_last, _ = torch.ops.ttt_triton.forward(list(W), *inputs, group, bias, keep)
    return z, tuple(W_last if bias else W_last[::2])


def check(
    W: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    *,
    decodes: bool = False,
) -> None:
    """Check sizes and types, because a kernel would read past the end of a tensor that is too small.

    If it ``decodes``, W may be in half precision, T is 1, and the shared memory of the other kernels is not needed.
    """
    B, H, T, D = q.shape
    hidden = (W[0].shape[-1],) if len(W) == 4 else ()
    reason = unsupported(D, hidden, tau.numel(), q.dtype, None if decodes else q.device)
    state = W[0].dtype if decodes else torch.float32
    reason = reason or (unsupported(D, hidden, tau.numel(), state) if decodes else None)
    torch._check(reason is None, lambda: f"the Triton inner loop cannot compute this: {reason}")
    torch._check(T == 1 if decodes else T % tau.numel() == 0, lambda: _wrong_tokens(T, tau, decodes))
    widths = [D, *hidden, D]
    shapes = [s for i, o in pairwise(widths) for s in ((B, H, i, o), (B, H, 1, o))]
    arguments = [*W, scale, shift, eta, tau]
    expected: list[tuple[int, ...]] = [*shapes, (H, 1, D), (H, 1, D), (B, H, T), (tau.numel(),)]
    if rotation is not None:
        torch._check(D % 2 == 0, lambda: f"expected pairs of coordinates to rotate, got head width {D}")
        arguments, expected = [*arguments, rotation], [*expected, (tau.numel(), D)]
    torch._check(len(arguments) == len(expected), lambda: f"W has {len(W)} tensors")
    for i, (x, shape) in enumerate(zip(arguments, expected, strict=True)):
        dtype = state if i < len(W) else torch.float32
        torch._check(tuple(x.shape) == shape, lambda x=x, shape=shape: f"expected shape {shape}, got {tuple(x.shape)}")
        torch._check(
            x.dtype == dtype,
            lambda x=x, dtype=dtype: f"expected {str(dtype).removeprefix('torch.')}, got {x.dtype}",
        )
    for x in (k, v):
        torch._check(x.shape == q.shape and x.dtype == q.dtype, lambda: "q, k and v differ in shape or type")
    torch._check(all(x.device == q.device for x in (*arguments, k, v)), lambda: "tensors on different devices")


def _wrong_tokens(T: int, tau: Tensor, decodes: bool) -> str:
    return f"expected one token, got {T}" if decodes else f"T = {T} is not a multiple of {tau.numel()}"


def views_of(scale: Tensor, shift: Tensor, *others: Any) -> launch.Views:
    """Return the arguments of a launch from those of an operator: q, k, v, eta, tau and rotation are ``others``."""
    return launch.Views.of(scale[:, 0], shift[:, 0], *others)


def _forward(
    W: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    group: int,
    bias: bool,
    keep: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    check(W, scale, shift, q, k, v, eta, tau, rotation)
    views = views_of(scale, shift, q, k, v, eta, tau, rotation)
    z, W_last, kept = launch.forward(views, W, group, bias, keep)
    return z.transpose(1, 2), W_last, kept


def _forward_fake(
    W: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    group: int,
    bias: bool,  # noqa: ARG001
    keep: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    check(W, scale, shift, q, k, v, eta, tau, rotation)
    groups = -(-(q.shape[2] // tau.numel()) // group) if keep else 0
    return rows(q), [w.new_empty(w.shape) for w in W], [w.new_empty(groups, *w.shape) for w in W]


def _backward(
    dz: Tensor,
    dW_last: list[Tensor],
    kept: list[Tensor],
    W: list[Tensor],  # noqa: ARG001
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,
    group: int,
    bias: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dW = [d.clone(memory_format=torch.contiguous_format) for d in dW_last]
    views = views_of(scale, shift, q, k, v, eta, tau, rotation)
    gradients = launch.backward(views, dz.to(q.dtype).transpose(1, 2).contiguous(), dW, kept, group, bias)
    dq, dk, dv = (x.transpose(1, 2) for x in (gradients.dq, gradients.dk, gradients.dv))
    dscale, dshift = gradients.dscale.sum(0)[:, None], gradients.dshift.sum(0)[:, None]
    return dW, dscale, dshift, dq, dk, dv, gradients.deta, gradients.dtau.sum((0, 1))


def _backward_fake(
    dz: Tensor,  # noqa: ARG001
    dW_last: list[Tensor],
    kept: list[Tensor],  # noqa: ARG001
    W: list[Tensor],  # noqa: ARG001
    scale: Tensor,
    shift: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    tau: Tensor,
    rotation: Tensor | None,  # noqa: ARG001
    group: int,  # noqa: ARG001
    bias: bool,  # noqa: ARG001
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dense = [x.new_empty(x.shape) for x in (scale, shift, eta, tau)]
    dscale, dshift, deta, dtau = dense
    return [w.new_empty(w.shape) for w in dW_last], dscale, dshift, rows(q), rows(k), rows(v), deta, dtau


def rows(x: Tensor) -> Tensor:
    """Return an empty [B, H, T, D] in memory order [B, T, H, D]."""
    B, H, T, D = x.shape
    return x.new_empty(B, T, H, D).transpose(1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    W, *tensors, group, bias, _ = inputs
    kept = output[2]
    ctx.layers, ctx.group, ctx.bias = len(W), group, bias
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*kept, *W, *tensors)


def _differentiate(ctx: Any, dz: Tensor | None, dW_last: list[Tensor | None], _: Any) -> tuple[Any, ...]:
    # Read once: activation checkpointing computes the tensors again when they are read, and refuses a second time.
    n, saved = ctx.layers, ctx.saved_tensors
    kept, W, tensors = saved[:n], saved[n : 2 * n], saved[2 * n :]
    dz = torch.zeros_like(tensors[2]) if dz is None else dz
    # Not zeros_like: W may be one tensor expanded over the batch.
    dW = [w.new_zeros(w.shape) if d is None else d for w, d in zip(W, dW_last, strict=True)]
    gradients = torch.ops.ttt_triton.backward(dz, dW, list(kept), list(W), *tensors, ctx.group, ctx.bias)
    # Not of the rotation, group, bias and keep.
    return *gradients, None, None, None, None


def _no_second(*_: Any) -> None:
    raise RuntimeError("the Triton inner loop has no second derivatives: use kernel=dual for them")


for _name, _real, _fake, _derivative, _saved in (
    ("forward", _forward, _forward_fake, _differentiate, _save),
    ("backward", _backward, _backward_fake, _no_second, None),
):
    for _device in ("CPU", "CUDA"):
        _LIBRARY.impl(_name, _real, _device)
    torch.library.register_fake(f"ttt_triton::{_name}", _fake, lib=_LIBRARY)
    torch.library.register_autograd(f"ttt_triton::{_name}", _derivative, setup_context=_saved, lib=_LIBRARY)
